package keys

import (
	"crypto/ed25519"
	"math/big"
	"slices"

	"kist/crypto/seal"
)

// VerifyDevice checks a signature made by [Session.Sign] and the key it was made
// with. The only error is [ErrSignature].
func VerifyDevice(public ed25519.PublicKey, label seal.Label, msg, sig []byte) error {
	return verify(public, seal.SigMessage(label, msg), sig)
}

func verify(public ed25519.PublicKey, msg, sig []byte) error {
	if !admissible(public) || len(sig) != ed25519.SignatureSize || !ed25519.Verify(public, msg, sig) {
		return ErrSignature
	}
	return nil
}

var (
	one    = big.NewInt(1)
	prime  = new(big.Int).Sub(new(big.Int).Lsh(one, 255), big.NewInt(19))
	curveD = func() *big.Int { // −121665/121666
		d := new(big.Int).ModInverse(big.NewInt(121666), prime)
		d.Mul(d, big.NewInt(-121665))
		return d.Mod(d, prime)
	}()
	// smallOrder are the y coordinates of the 8 points of small order: 1 and −1 of
	// order 1 and 2, 0 of order 4, and two of order 8.
	smallOrder = func() []*big.Int {
		y, ok := new(big.Int).SetString("05fc536d880238b13933c6d305acdfd5f098eff289f4c345b027b2c28f95e826", 16)
		if !ok {
			panic("keys: bad constant")
		}
		negate := func(n *big.Int) *big.Int { return new(big.Int).Sub(prime, n) }
		return []*big.Int{new(big.Int), one, negate(one), y, negate(y)}
	}()
)

// admissible reports whether an Ed25519 public key may be used at all. The
// standard library's verifier takes keys of small order, under which one
// signature fits every message, and second encodings of one key.
func admissible(public []byte) bool {
	if len(public) != ed25519.PublicKeySize {
		return false
	}
	le := slices.Clone(public)
	le[31] &= 0x7f // the sign of x
	slices.Reverse(le)
	y := new(big.Int).SetBytes(le)
	for _, bad := range smallOrder {
		if y.Cmp(bad) == 0 {
			return false
		}
	}
	return y.Cmp(prime) < 0 && onCurve(y)
}

// onCurve reports whether some x satisfies −x² + y² = 1 + d·x²·y², that is,
// whether (y² − 1)/(d·y² + 1) is a square. The denominator is never zero. It
// takes public keys only and need not run in constant time.
func onCurve(y *big.Int) bool {
	yy := new(big.Int).Mul(y, y)
	num := new(big.Int).Sub(yy, one)
	den := new(big.Int).Mul(yy, curveD)
	den.Add(den, one)
	num.Mul(num, den)
	return big.Jacobi(num.Mod(num, prime), prime) == 1
}
