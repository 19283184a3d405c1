//go:build race

package fs

// With the race detector everything takes ten times as long: fewer histories, the rest
// is played without it.
const histories = 10
