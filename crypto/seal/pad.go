package seal

import "math/bits"

// Padded returns the Padmé size of n: the next size whose binary form has few
// significant bits. At most 12 % is added, and an observer learns O(log log n)
// bits of n.
func Padded(n int) int {
	if n < 2 {
		return n
	}
	e := bits.Len(uint(n)) - 1
	s := bits.Len(uint(e))
	mask := 1<<(e-s) - 1
	return (n + mask) &^ mask
}
