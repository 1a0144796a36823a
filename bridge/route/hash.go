package route

import (
	"encoding/binary"
	"math/bits"
)

// The hash that sticky choices are made of. It must never change: all routers and
// all releases have to agree. It is made like wyhash (Wang Yi): each step multiplies
// two words into 128 bits, and folds them. Nothing depends on whether a client can
// find keys that collide, since a client is free to choose its key anyway.
const (
	hash1 = 0xa0761d6478bd642f
	hash2 = 0xe7037ed1a0b428db
	hash3 = 0x8ebc6af09c88c6e3
)

// hash64 is the hash of b.
func hash64(b []byte) uint64 {
	hash := fold(uint64(len(b))^hash1, hash2)
	for ; len(b) > 16; b = b[16:] {
		hash = fold(binary.LittleEndian.Uint64(b)^hash1, binary.LittleEndian.Uint64(b[8:])^hash)
	}
	var last [16]byte
	copy(last[:], b)
	hash = fold(binary.LittleEndian.Uint64(last[:])^hash2, binary.LittleEndian.Uint64(last[8:])^hash)
	return fold(hash^hash3, hash1)
}

// mix is one hash of two, of which every bit depends on all bits of both.
func mix(a, b uint64) uint64 {
	return fold(fold(a^hash1, b^hash2)^hash3, hash1)
}

// fold multiplies a and b.
func fold(a, b uint64) uint64 {
	hi, lo := bits.Mul64(a, b)
	return hi ^ lo
}
