package main

import (
	"crypto/ed25519"
	"crypto/sha256"
	"math/big"
)

// A reader's address: docs/protocol.md sections 0 and 2.1.

const base58Alphabet = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"

func base58(data []byte) string {
	n, radix, digit := new(big.Int).SetBytes(data), big.NewInt(58), new(big.Int)
	var reversed []byte
	for n.Sign() > 0 {
		n.DivMod(n, radix, digit)
		reversed = append(reversed, base58Alphabet[digit.Int64()])
	}
	for _, b := range data {
		if b != 0 {
			break
		}
		reversed = append(reversed, '1')
	}
	for i, j := 0, len(reversed)-1; i < j; i, j = i+1, j-1 {
		reversed[i], reversed[j] = reversed[j], reversed[i]
	}
	return string(reversed)
}

// peerID is the canonical Qm… form: base58 of the sha2-256 multihash of the
// protobuf {1: Ed25519, 2: key}.
func peerID(key ed25519.PublicKey) string {
	digest := sha256.Sum256(append([]byte{0x08, 0x01, 0x12, 0x20}, key...))
	return base58(append([]byte{0x12, 0x20}, digest[:]...))
}

// helloSignature proves a key to one relay.
func helloSignature(key ed25519.PrivateKey, audience string, nonce []byte) []byte {
	text := "posthouse/v2/hello\n" + audience + "\n"
	return ed25519.Sign(key, append([]byte(text), nonce...))
}

// keyOf makes the key of the n-th connection of a run: the same seed gives the
// same keys, so that a reader can come back.
func keyOf(runSeed uint64, n int) ed25519.PrivateKey {
	var material [16]byte
	for i := range 8 {
		material[i] = byte(runSeed >> (8 * i))
		material[8+i] = byte(uint64(n) >> (8 * i))
	}
	seed := sha256.Sum256(material[:])
	return ed25519.NewKeyFromSeed(seed[:])
}
