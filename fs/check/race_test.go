//go:build race

package check

// stride thins the sweep: the detector makes each check twenty times slower.
const stride = 31
