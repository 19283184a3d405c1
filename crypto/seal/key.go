package seal

import (
	"crypto/subtle"
	"fmt"
	"io"
	"log/slog"
)

// Key is a secret. It prints as "[redacted]" wherever it is printed.
type Key [32]byte

const redacted = "[redacted]"

func (Key) String() string               { return redacted }
func (Key) GoString() string             { return redacted }
func (Key) Format(f fmt.State, _ rune)   { io.WriteString(f, redacted) }
func (Key) MarshalText() ([]byte, error) { return []byte(redacted), nil }
func (Key) LogValue() slog.Value         { return slog.StringValue(redacted) }

// Equal compares in constant time.
func (k Key) Equal(other Key) bool { return subtle.ConstantTimeCompare(k[:], other[:]) == 1 }

// Wipe overwrites the key. Copies that the runtime made are beyond its reach.
func (k *Key) Wipe() { clear(k[:]) }
