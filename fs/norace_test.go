//go:build !race

package fs

const histories = 100
