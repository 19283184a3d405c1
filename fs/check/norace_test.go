//go:build !race

package check

// stride is between the bytes that the sweep flips.
const stride = 1
