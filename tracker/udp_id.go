package tracker

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"net/netip"
)

// udpSliceSec is how long a connection id is given out. It is accepted in that time and in the next, and so for two to four
// minutes: BEP 15 has clients use one for a minute, and trackers accept it for two.
const udpSliceSec = 120

// connectionIDs make connection ids, and know their own again, without keeping any: an id is a keyed hash of the client's
// address and the time, and who sends it back has received it at that address. The port is not in it: a NAT may change that
// between two packets.
//
// The hash is AES in CBC-MAC mode over exactly two blocks, the time and the address, cut to 64 bits. The first block is done
// once in two minutes, so an id costs one block: 34 ns where the processor has AES (BenchmarkConnectionID).
//
// Not safe for concurrent use; those with the same key know each other's ids.
type connectionIDs struct {
	block cipher.Block
	slice int64                  // udpSliceSec since 1970
	state [2][aes.BlockSize]byte // of this slice, and of the one before
	work  [aes.BlockSize]byte
}

// UDPKeyBytes is the length of the key that connection ids are made with.
const UDPKeyBytes = 16

func newConnectionIDs(key *[UDPKeyBytes]byte) *connectionIDs {
	block, err := aes.NewCipher(key[:])
	if err != nil {
		panic("BUG: " + err.Error()) // it knows keys by their length
	}
	return &connectionIDs{block: block, slice: -1}
}

// at sets the time of the ids.
func (c *connectionIDs) at(unixSec int64) {
	slice := unixSec / udpSliceSec
	if slice == c.slice {
		return
	}
	c.slice = slice
	for i := range c.state {
		s := &c.state[i]
		*s = [aes.BlockSize]byte{}
		binary.LittleEndian.PutUint64(s[:], uint64(slice-int64(i)))
		c.block.Encrypt(s[:], s[:])
	}
}

// id is what addr is given now.
func (c *connectionIDs) id(addr netip.Addr) uint64 {
	ip := addr.As16()
	return c.mac(0, &ip)
}

// valid tells whether id was given to addr, two to four minutes ago at the most.
func (c *connectionIDs) valid(id uint64, addr netip.Addr) bool {
	ip := addr.As16()
	return id == c.mac(0, &ip) || id == c.mac(1, &ip)
}

func (c *connectionIDs) mac(age int, ip *[aes.BlockSize]byte) uint64 {
	for i, b := range c.state[age] {
		c.work[i] = b ^ ip[i]
	}
	c.block.Encrypt(c.work[:], c.work[:])
	return binary.LittleEndian.Uint64(c.work[:])
}
