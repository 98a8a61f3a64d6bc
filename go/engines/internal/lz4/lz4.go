// Package lz4 is liblz4 1.9.4's block format. Its two C files stand here as released
// (the tag v1.9.4 of lz4/lz4, BSD licence beside them): nothing has to be installed, and
// the bytes are those of the pipeline's lz4 wheel, which brings the same release.
package lz4

/*
#cgo CFLAGS: -O3
#include "lz4.h"

// As the wheel packs a block: by way of a stream, whose table differs from LZ4_compress_default's
// for blocks under 64 KiB.
static int pack(const char* src, char* dst, int size, int capacity) {
	LZ4_stream_t stream;
	LZ4_initStream(&stream, sizeof stream);
	return LZ4_compress_fast_continue(&stream, src, dst, size, capacity, 1);
}
*/
import "C"

import (
	"fmt"
	"unsafe"
)

// Version is the library's.
func Version() string { return C.GoString(C.LZ4_versionString()) }

// Bound is the most bytes that size bytes are packed into.
func Bound(size int) int { return int(C.LZ4_compressBound(C.int(size))) }

// Pack writes a block, without its size before it, into dst and returns its length. dst
// has room for Bound(len(src)) bytes; src is shorter than 2 GB.
func Pack(dst, src []byte) (int, error) {
	written := C.pack(chars(src), chars(dst), C.int(len(src)), C.int(len(dst)))
	if written <= 0 {
		return 0, fmt.Errorf("lz4 cannot pack %d bytes into %d", len(src), len(dst))
	}
	return int(written), nil
}

// Unpack fills dst with a block's content, of exactly that size.
func Unpack(dst, src []byte) error {
	if written := C.LZ4_decompress_safe(chars(src), chars(dst), C.int(len(src)), C.int(len(dst))); int(written) != len(dst) {
		return fmt.Errorf("no lz4 block of %d bytes", len(dst))
	}
	return nil
}

func chars(data []byte) *C.char { return (*C.char)(unsafe.Pointer(unsafe.SliceData(data))) }
