// One model in LiteRT, behind three calls. The library is loaded when a program runs, so
// nothing of it is needed to build; what of its C API is used is declared in runtime.c.
#ifndef DWCP_LITERT_RUNTIME_H
#define DWCP_LITERT_RUNTIME_H

#include <stddef.h>

typedef struct dwcp_model dwcp_model;

// Opens a model of one input and (at least) one output of float32, for one row at a time.
// data must stay as it is until the model is closed. On failure the result is NULL and
// problem (problem_size bytes) says why.
dwcp_model *dwcp_open(const char *library, const void *data, size_t size, char *problem, size_t problem_size);

// The metadata entry of that name, NULL without one; it lives as long as the model.
const void *dwcp_metadata(dwcp_model *model, const char *key, size_t *size);

// Makes room for rows of inputs values in and outputs values out, and names the output to read.
int dwcp_prepare(dwcp_model *model, const char *input, int inputs, const char *output, int outputs, char *problem,
                 size_t problem_size);

// Where a row is written to before dwcp_run, and the answer read from after it.
float *dwcp_input(dwcp_model *model);
const float *dwcp_output(dwcp_model *model);

// Runs the model on the row; 0, or LiteRT's status.
int dwcp_run(dwcp_model *model);

void dwcp_close(dwcp_model *model);

#endif
