package selector

import (
	"encoding/binary"
	"math/bits"
)

// blake2b64 is BLAKE2b with a digest of eight bytes, which rollout buckets are made with.
func blake2b64(data []byte) (digest [8]byte) {
	state := blake2b(data, len(digest))
	binary.LittleEndian.PutUint64(digest[:], state[0])
	return digest
}

// blake2b128 is BLAKE2b with a digest of sixteen bytes, which names blocks.
func blake2b128(data []byte) (digest [16]byte) {
	state := blake2b(data, len(digest))
	binary.LittleEndian.PutUint64(digest[:], state[0])
	binary.LittleEndian.PutUint64(digest[8:], state[1])
	return digest
}

// blake2b is unkeyed BLAKE2b (RFC 7693), which the standard library lacks.
func blake2b(data []byte, digestBytes int) [8]uint64 {
	state := blake2bIV
	state[0] ^= 0x01010000 ^ uint64(digestBytes)
	var block [16]uint64
	var length uint64
	for len(data) > blake2bBlockBytes {
		length += blake2bBlockBytes
		for word := range block {
			block[word] = binary.LittleEndian.Uint64(data[8*word:])
		}
		blake2bCompress(&state, &block, length, false)
		data = data[blake2bBlockBytes:]
	}
	var last [blake2bBlockBytes]byte
	length += uint64(copy(last[:], data))
	for word := range block {
		block[word] = binary.LittleEndian.Uint64(last[8*word:])
	}
	blake2bCompress(&state, &block, length, true)
	return state
}

const blake2bBlockBytes = 128

var blake2bIV = [8]uint64{
	0x6a09e667f3bcc908, 0xbb67ae8584caa73b, 0x3c6ef372fe94f82b, 0xa54ff53a5f1d36f1,
	0x510e527fade682d1, 0x9b05688c2b3e6c1f, 0x1f83d9abfb41bd6b, 0x5be0cd19137e2179,
}

var blake2bSigma = [12][16]uint8{
	{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15},
	{14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3},
	{11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4},
	{7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8},
	{9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13},
	{2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9},
	{12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11},
	{13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10},
	{6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5},
	{10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0},
	{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15},
	{14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3},
}

func blake2bCompress(state *[8]uint64, block *[16]uint64, length uint64, last bool) {
	v0, v1, v2, v3 := state[0], state[1], state[2], state[3]
	v4, v5, v6, v7 := state[4], state[5], state[6], state[7]
	v8, v9, v10, v11 := blake2bIV[0], blake2bIV[1], blake2bIV[2], blake2bIV[3]
	v12, v13, v14, v15 := blake2bIV[4]^length, blake2bIV[5], blake2bIV[6], blake2bIV[7]
	if last {
		v14 = ^v14
	}
	for round := range blake2bSigma {
		s := &blake2bSigma[round]
		v0, v4, v8, v12 = blake2bMix(v0, v4, v8, v12, block[s[0]&15], block[s[1]&15])
		v1, v5, v9, v13 = blake2bMix(v1, v5, v9, v13, block[s[2]&15], block[s[3]&15])
		v2, v6, v10, v14 = blake2bMix(v2, v6, v10, v14, block[s[4]&15], block[s[5]&15])
		v3, v7, v11, v15 = blake2bMix(v3, v7, v11, v15, block[s[6]&15], block[s[7]&15])
		v0, v5, v10, v15 = blake2bMix(v0, v5, v10, v15, block[s[8]&15], block[s[9]&15])
		v1, v6, v11, v12 = blake2bMix(v1, v6, v11, v12, block[s[10]&15], block[s[11]&15])
		v2, v7, v8, v13 = blake2bMix(v2, v7, v8, v13, block[s[12]&15], block[s[13]&15])
		v3, v4, v9, v14 = blake2bMix(v3, v4, v9, v14, block[s[14]&15], block[s[15]&15])
	}
	state[0] ^= v0 ^ v8
	state[1] ^= v1 ^ v9
	state[2] ^= v2 ^ v10
	state[3] ^= v3 ^ v11
	state[4] ^= v4 ^ v12
	state[5] ^= v5 ^ v13
	state[6] ^= v6 ^ v14
	state[7] ^= v7 ^ v15
}

// blake2bMix is the function G of RFC 7693, small enough to be inlined.
func blake2bMix(a, b, c, d, x, y uint64) (uint64, uint64, uint64, uint64) {
	a += b + x
	d = bits.RotateLeft64(d^a, -32)
	c += d
	b = bits.RotateLeft64(b^c, -24)
	a += b + y
	d = bits.RotateLeft64(d^a, -16)
	c += d
	b = bits.RotateLeft64(b^c, -63)
	return a, b, c, d
}
