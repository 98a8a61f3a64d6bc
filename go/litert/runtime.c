#include "runtime.h"

#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// What is used of LiteRT's C API (litert/c in its repository), of release 2.3: handles are
// opaque, statuses are 0 or an error, and layouts are stable by its word.
typedef void *handle;
typedef struct {
    unsigned int rank : 7;
    unsigned int has_strides : 1;
    int32_t dimensions[8];
    uint32_t strides[8];
} layout;
typedef struct {
    int element_type;
    layout layout;
} tensor_type;
typedef struct {
    int type;
    int64_t integer; // of a union, whose other members are not used here
} any;
typedef struct {
    int tag;
    any value;
} environment_option;
enum { FLOAT32 = 1, INT64 = 4, CPU = 1, ERRORS = 3, INTEGER = 2, ACCELERATORS = 24, LEAST_SEVERITY = 25 };
enum { ALIGNMENT = 64, MAX_OUTPUTS = 4 };

// No search for accelerators at start, and no word in the node's log but of errors.
static const environment_option environment_options[] = {
    {ACCELERATORS, {INTEGER, CPU}},
    {LEAST_SEVERITY, {INTEGER, ERRORS}},
};

#define FUNCTIONS(X)                                                                                              \
    X(int, LiteRtCreateEnvironment, (int, const environment_option *, handle *))                                  \
    X(void, LiteRtDestroyEnvironment, (handle))                                                                   \
    X(int, LiteRtCreateModelFromBuffer, (handle, const void *, size_t, handle *))                                 \
    X(void, LiteRtDestroyModel, (handle))                                                                         \
    X(int, LiteRtGetModelMetadata, (handle, const char *, const void **, size_t *))                               \
    X(int, LiteRtGetNumModelSignatures, (handle, size_t *))                                                       \
    X(int, LiteRtGetModelSignature, (handle, size_t, handle *))                                                   \
    X(int, LiteRtGetNumSignatureInputs, (handle, size_t *))                                                       \
    X(int, LiteRtGetSignatureInputName, (handle, size_t, const char **))                                          \
    X(int, LiteRtGetSignatureInputTensorByIndex, (handle, size_t, handle *))                                      \
    X(int, LiteRtGetNumSignatureOutputs, (handle, size_t *))                                                      \
    X(int, LiteRtGetSignatureOutputName, (handle, size_t, const char **))                                         \
    X(int, LiteRtGetSignatureOutputTensorByIndex, (handle, size_t, handle *))                                     \
    X(int, LiteRtGetRankedTensorType, (handle, tensor_type *))                                                    \
    X(int, LiteRtCreateOptions, (handle *))                                                                       \
    X(void, LiteRtDestroyOptions, (handle))                                                                       \
    X(int, LiteRtSetOptionsHardwareAccelerators, (handle, int))                                                   \
    X(int, LiteRtCreateOpaqueOptions, (const char *, void *, void (*)(void *), handle *))                         \
    X(int, LiteRtAddOpaqueOptions, (handle, handle))                                                              \
    X(int, LiteRtCreateCompiledModel, (handle, handle, handle, handle *))                                         \
    X(void, LiteRtDestroyCompiledModel, (handle))                                                                 \
    X(int, LiteRtRunCompiledModel, (handle, size_t, size_t, handle *, size_t, handle *))                          \
    X(int, LiteRtCreateTensorBufferFromHostMemory,                                                                \
      (const tensor_type *, void *, size_t, void (*)(void *), handle *))                                          \
    X(void, LiteRtDestroyTensorBuffer, (handle))                                                                  \
    /* Not called: it came with the calls above as they are. Older releases take other arguments. */              \
    X(int, LiteRtCreateModelFromFd, (void))

typedef struct {
#define FIELD(result, name, arguments) result(*name) arguments;
    FUNCTIONS(FIELD)
#undef FIELD
} api;

struct dwcp_model {
    void *library;
    api litert;
    handle environment, model, compiled;
    float *input;
    void *outputs[MAX_OUTPUTS];
    handle input_buffer, output_buffers[MAX_OUTPUTS];
    size_t output_count, answer;
};

static int say(char *problem, size_t size, const char *what, const char *why) {
    snprintf(problem, size, "%s: %s", what, why ? why : "no reason given");
    return -1;
}

// A status is a number of LiteRtStatus, litert/c/litert_common.h: the library has no words for them.
static int fail(char *problem, size_t size, const char *function, int status) {
    snprintf(problem, size, "%s failed with status %d", function, status);
    return -1;
}

static int load(dwcp_model *found, const char *library, char *problem, size_t size) {
    found->library = dlopen(library, RTLD_NOW | RTLD_LOCAL);
    if (!found->library) return say(problem, size, "LiteRT cannot be loaded", dlerror());
#define LOOK_UP(result, name, arguments)                                                        \
    *(void **)&found->litert.name = dlsym(found->library, #name);                               \
    if (!found->litert.name) return say(problem, size, "the library is no LiteRT of release 2.3 or later", dlerror());
    FUNCTIONS(LOOK_UP)
#undef LOOK_UP
    return 0;
}

// Returns from the calling function unless the call went well.
#define TRY(name, ...)                                                                                       \
    do {                                                                                                     \
        int status = found->litert.name(__VA_ARGS__);                                                        \
        if (status) return fail(problem, size, #name, status);                                               \
    } while (0)

// compile asks for one thread: the decision stays on the thread that asks for it.
static int compile(dwcp_model *found, handle options, char *problem, size_t size) {
    handle threads;
    char *text = strdup("num_threads = 1\n");
    if (!text) return say(problem, size, "LiteRT", "out of memory");
    TRY(LiteRtSetOptionsHardwareAccelerators, options, CPU);
    TRY(LiteRtCreateOpaqueOptions, "xnnpack", text, free, &threads);
    TRY(LiteRtAddOpaqueOptions, options, threads);
    TRY(LiteRtCreateCompiledModel, found->environment, found->model, options, &found->compiled);
    return 0;
}

static int open_model(dwcp_model *found, const void *data, size_t bytes, char *problem, size_t size) {
    handle options;
    TRY(LiteRtCreateEnvironment, 2, environment_options, &found->environment);
    TRY(LiteRtCreateModelFromBuffer, found->environment, data, bytes, &found->model);
    TRY(LiteRtCreateOptions, &options);
    int failed = compile(found, options, problem, size);
    found->litert.LiteRtDestroyOptions(options);
    return failed;
}

dwcp_model *dwcp_open(const char *library, const void *data, size_t bytes, char *problem, size_t size) {
    dwcp_model *found = calloc(1, sizeof *found);
    if (!found) {
        say(problem, size, "LiteRT", "out of memory");
        return NULL;
    }
    if (load(found, library, problem, size) || open_model(found, data, bytes, problem, size)) {
        dwcp_close(found);
        return NULL;
    }
    return found;
}

const void *dwcp_metadata(dwcp_model *model, const char *key, size_t *size) {
    const void *data = NULL;
    return model->litert.LiteRtGetModelMetadata(model->model, key, &data, size) ? NULL : data;
}

// buffer makes memory for one row of the tensor as the model has it, and wraps it.
static int buffer(dwcp_model *found, handle tensor, int type, int values, void **memory, handle *wrapped, char *problem,
                  size_t size) {
    tensor_type kind;
    TRY(LiteRtGetRankedTensorType, tensor, &kind);
    int columns = kind.layout.rank == 2 ? kind.layout.dimensions[1] : 1;
    if (kind.element_type != type || kind.layout.rank > 2 || columns != values)
        return say(problem, size, "the model", "a tensor has another type or shape");
    kind.layout.dimensions[0] = 1; // rows: one, whatever the file allows
    kind.layout.has_strides = 0;
    size_t bytes = (values * (type == INT64 ? 8 : 4) + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    if (!(*memory = aligned_alloc(ALIGNMENT, bytes))) return say(problem, size, "LiteRT", "out of memory");
    memset(*memory, 0, bytes);
    TRY(LiteRtCreateTensorBufferFromHostMemory, &kind, *memory, bytes, NULL, wrapped);
    return 0;
}

int dwcp_prepare(dwcp_model *found, const char *input, int inputs, const char *output, int outputs, char *problem,
                 size_t size) {
    handle signature, tensor;
    size_t count;
    const char *name;
    TRY(LiteRtGetNumModelSignatures, found->model, &count);
    if (count != 1) return say(problem, size, "the model", "it has not one signature");
    TRY(LiteRtGetModelSignature, found->model, 0, &signature);
    TRY(LiteRtGetNumSignatureInputs, signature, &count);
    TRY(LiteRtGetNumSignatureOutputs, signature, &found->output_count);
    if (count != 1 || found->output_count > MAX_OUTPUTS)
        return say(problem, size, "the model", "it has another number of inputs or outputs");
    TRY(LiteRtGetSignatureInputName, signature, 0, &name);
    if (strcmp(name, input)) return say(problem, size, "the model", "its input has another name");
    TRY(LiteRtGetSignatureInputTensorByIndex, signature, 0, &tensor);
    if (buffer(found, tensor, FLOAT32, inputs, (void **)&found->input, &found->input_buffer, problem, size)) return -1;
    found->answer = MAX_OUTPUTS;
    for (size_t number = 0; number < found->output_count; number++) {
        TRY(LiteRtGetSignatureOutputName, signature, number, &name);
        TRY(LiteRtGetSignatureOutputTensorByIndex, signature, number, &tensor);
        int is_answer = !strcmp(name, output);
        if (is_answer) found->answer = number;
        if (buffer(found, tensor, is_answer ? FLOAT32 : INT64, is_answer ? outputs : 1, &found->outputs[number],
                   &found->output_buffers[number], problem, size))
            return -1;
    }
    if (found->answer == MAX_OUTPUTS) return say(problem, size, "the model", "it has no output of that name");
    return 0;
}

float *dwcp_input(dwcp_model *model) { return model->input; }

const float *dwcp_output(dwcp_model *model) { return model->outputs[model->answer]; }

int dwcp_run(dwcp_model *model) {
    return model->litert.LiteRtRunCompiledModel(model->compiled, 0, 1, &model->input_buffer, model->output_count,
                                                model->output_buffers);
}

// The library stays loaded: its threads and static data are not made to be unloaded.
void dwcp_close(dwcp_model *model) {
    api *litert = &model->litert;
    if (model->input_buffer) litert->LiteRtDestroyTensorBuffer(model->input_buffer);
    for (size_t number = 0; number < MAX_OUTPUTS; number++) {
        if (model->output_buffers[number]) litert->LiteRtDestroyTensorBuffer(model->output_buffers[number]);
        free(model->outputs[number]);
    }
    free(model->input);
    if (model->compiled) litert->LiteRtDestroyCompiledModel(model->compiled);
    if (model->model) litert->LiteRtDestroyModel(model->model);
    if (model->environment) litert->LiteRtDestroyEnvironment(model->environment);
    free(model);
}
