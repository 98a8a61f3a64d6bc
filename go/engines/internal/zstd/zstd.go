// Package zstd is what the engines need of libzstd 1.5.7: level 3 with a raw-content
// dictionary and a window of its own, which no Go binding offers.
//
// The library itself, C sources included, is that of github.com/DataDog/zstd, linked in
// by importing it. Its header cannot be reached from another module, so the functions
// used are declared here as zstd.h 1.5.7 has them; Version lets a test say so.
package zstd

/*
// The functions are defined in another package's C sources: only the program's last
// link finds them. What it did not find, the first test would.
#cgo linux LDFLAGS: -Wl,--unresolved-symbols=ignore-in-object-files
#cgo darwin LDFLAGS: -Wl,-undefined,dynamic_lookup

#include <stddef.h>

typedef struct ZSTD_CCtx_s ZSTD_CCtx;
typedef struct ZSTD_DCtx_s ZSTD_DCtx;
typedef struct {
	unsigned windowLog, chainLog, hashLog, searchLog, minMatch, targetLength;
	int strategy;
} ZSTD_compressionParameters;

unsigned ZSTD_versionNumber(void);
size_t ZSTD_compressBound(size_t srcSize);
unsigned ZSTD_isError(size_t result);
const char* ZSTD_getErrorName(size_t result);
unsigned long long ZSTD_getFrameContentSize(const void* src, size_t srcSize);
ZSTD_compressionParameters ZSTD_getCParams(int level, unsigned long long srcSize, size_t dictSize);

ZSTD_CCtx* ZSTD_createCCtx(void);
size_t ZSTD_freeCCtx(ZSTD_CCtx*);
size_t ZSTD_CCtx_reset(ZSTD_CCtx*, int directive);
size_t ZSTD_CCtx_setParameter(ZSTD_CCtx*, int parameter, int value);
size_t ZSTD_CCtx_loadDictionary_advanced(ZSTD_CCtx*, const void* dict, size_t dictSize, int loadMethod, int contentType);
size_t ZSTD_compress2(ZSTD_CCtx*, void* dst, size_t dstCapacity, const void* src, size_t srcSize);

ZSTD_DCtx* ZSTD_createDCtx(void);
size_t ZSTD_freeDCtx(ZSTD_DCtx*);
size_t ZSTD_DCtx_reset(ZSTD_DCtx*, int directive);
size_t ZSTD_DCtx_loadDictionary_advanced(ZSTD_DCtx*, const void* dict, size_t dictSize, int loadMethod, int contentType);
size_t ZSTD_decompressDCtx(ZSTD_DCtx*, void* dst, size_t dstCapacity, const void* src, size_t srcSize);

enum { RESET_ALL = 3, BY_REFERENCE = 1, RAW_CONTENT = 1, LEVEL_PARAMETER = 100 };

static size_t compress(ZSTD_CCtx* context, void* dst, size_t capacity, const void* src, size_t size, int level) {
	ZSTD_CCtx_reset(context, RESET_ALL);
	ZSTD_CCtx_setParameter(context, LEVEL_PARAMETER, level);
	return ZSTD_compress2(context, dst, capacity, src, size);
}

static size_t compressWith(ZSTD_CCtx* context, void* dst, size_t capacity, const void* src, size_t size, int level,
                           const void* dict, size_t dictSize, int windowLog) {
	ZSTD_compressionParameters with = ZSTD_getCParams(level, size, dictSize);
	// ZSTD_c_windowLog to ZSTD_c_strategy
	const int values[] = {windowLog, with.hashLog, with.chainLog, with.searchLog, with.minMatch, with.targetLength, with.strategy};
	size_t result = ZSTD_CCtx_reset(context, RESET_ALL);
	for (int place = 0; place < 7 && !ZSTD_isError(result); place++)
		result = ZSTD_CCtx_setParameter(context, LEVEL_PARAMETER + 1 + place, values[place]);
	if (!ZSTD_isError(result) && dictSize > 0)
		result = ZSTD_CCtx_loadDictionary_advanced(context, dict, dictSize, BY_REFERENCE, RAW_CONTENT);
	if (!ZSTD_isError(result))
		result = ZSTD_compress2(context, dst, capacity, src, size);
	ZSTD_CCtx_reset(context, RESET_ALL); // the dictionary is the caller's
	return result;
}

static size_t decompress(ZSTD_DCtx* context, void* dst, size_t capacity, const void* src, size_t size,
                         const void* dict, size_t dictSize) {
	size_t result = ZSTD_DCtx_reset(context, RESET_ALL);
	if (dictSize > 0)
		result = ZSTD_DCtx_loadDictionary_advanced(context, dict, dictSize, BY_REFERENCE, RAW_CONTENT);
	if (!ZSTD_isError(result))
		result = ZSTD_decompressDCtx(context, dst, capacity, src, size);
	if (dictSize > 0)
		ZSTD_DCtx_reset(context, RESET_ALL);
	return result;
}
*/
import "C"

import (
	"errors"
	"fmt"
	"math/bits"
	"runtime"
	"sync"
	"unsafe"

	_ "github.com/DataDog/zstd" // libzstd itself
)

const (
	minWindowLog     = 10
	leastDictionary  = 8 // bytes; libzstd ignores shorter ones
	contentSizeError = ^uint64(0) - 1
)

// Version is the library's, such as 10507 for 1.5.7.
func Version() int { return int(C.ZSTD_versionNumber()) }

// Bound is the most bytes that size bytes are compressed to.
func Bound(size int) int { return int(C.ZSTD_compressBound(C.size_t(size))) }

// Compress writes one frame, with its content size and no checksum, into dst and returns
// its length. dst has room for Bound(len(src)) bytes.
func Compress(dst, src []byte, level int) (int, error) {
	context, err := takeCompressor()
	if err != nil {
		return 0, err
	}
	defer compressors.Put(context)
	return result(C.compress(context.native, pointer(dst), C.size_t(len(dst)), pointer(src), C.size_t(len(src)), C.int(level)))
}

// CompressWith is Compress with a raw-content dictionary, and a window that reaches over
// it and src.
func CompressWith(dst, src []byte, level int, dictionary []byte) (int, error) {
	context, err := takeCompressor()
	if err != nil {
		return 0, err
	}
	defer compressors.Put(context)
	windowLog := max(minWindowLog, bits.Len(uint(len(src)+len(dictionary))))
	dictionary = usable(dictionary)
	return result(C.compressWith(context.native, pointer(dst), C.size_t(len(dst)), pointer(src), C.size_t(len(src)), C.int(level),
		pointer(dictionary), C.size_t(len(dictionary)), C.int(windowLog)))
}

// ContentBytes is what a frame's header says that it holds.
func ContentBytes(frame []byte) (int64, error) {
	size := uint64(C.ZSTD_getFrameContentSize(pointer(frame), C.size_t(len(frame))))
	if size >= contentSizeError {
		return 0, errors.New("no zstd frame with its content size")
	}
	return int64(size), nil
}

// Decompress writes a frame's content into dst and returns its length. dictionary is
// that of CompressWith, empty without one.
func Decompress(dst, frame, dictionary []byte) (int, error) {
	context, err := takeDecompressor()
	if err != nil {
		return 0, err
	}
	defer decompressors.Put(context)
	dictionary = usable(dictionary)
	return result(C.decompress(context.native, pointer(dst), C.size_t(len(dst)), pointer(frame), C.size_t(len(frame)),
		pointer(dictionary), C.size_t(len(dictionary))))
}

func usable(dictionary []byte) []byte {
	if len(dictionary) < leastDictionary {
		return nil
	}
	return dictionary
}

// Contexts are kept between calls, as a node does; one is used by one call at a time.
type (
	compressor   struct{ native *C.ZSTD_CCtx }
	decompressor struct{ native *C.ZSTD_DCtx }
)

var compressors, decompressors sync.Pool

var errNoMemory = errors.New("libzstd has no memory for a context")

func takeCompressor() (*compressor, error) {
	if kept, ok := compressors.Get().(*compressor); ok {
		return kept, nil
	}
	made := &compressor{C.ZSTD_createCCtx()}
	if made.native == nil {
		return nil, errNoMemory
	}
	runtime.SetFinalizer(made, func(gone *compressor) { C.ZSTD_freeCCtx(gone.native) })
	return made, nil
}

func takeDecompressor() (*decompressor, error) {
	if kept, ok := decompressors.Get().(*decompressor); ok {
		return kept, nil
	}
	made := &decompressor{C.ZSTD_createDCtx()}
	if made.native == nil {
		return nil, errNoMemory
	}
	runtime.SetFinalizer(made, func(gone *decompressor) { C.ZSTD_freeDCtx(gone.native) })
	return made, nil
}

func result(code C.size_t) (int, error) {
	if C.ZSTD_isError(code) != 0 {
		return 0, fmt.Errorf("libzstd: %s", C.GoString(C.ZSTD_getErrorName(code)))
	}
	return int(code), nil
}

func pointer(data []byte) unsafe.Pointer { return unsafe.Pointer(unsafe.SliceData(data)) }
