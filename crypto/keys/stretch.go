package keys

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os/exec"

	"golang.org/x/crypto/argon2"

	"kist/crypto/seal"
)

// Params is the cost of guessing a passphrase: T passes over M KiB in P lanes.
type Params struct {
	T uint32
	M uint32 // KiB
	P uint8
}

// LocalParams is the cost of new keyfiles.
func LocalParams() Params { return Params{T: 3, M: 256 << 10, P: 4} }

var (
	floor   = Params{T: 3, M: 64 << 10, P: 4}
	ceiling = Params{T: 16, M: 4 << 20, P: 16}
)

// Check refuses a cost that would make guessing cheap, or this machine fall over.
func (p Params) Check() error {
	switch {
	case p.T < floor.T || p.M < floor.M || p.P < floor.P:
		return fmt.Errorf("%w: its cost parameters are too low to be honest", ErrKeyfile)
	case p.T > ceiling.T || p.M > ceiling.M || p.P > ceiling.P:
		return fmt.Errorf("%w: its cost parameters are too high to be honest", ErrKeyfile)
	}
	return nil
}

// Stretcher turns a passphrase into a key, slowly. [Stretch] does it in this
// process, [ChildStretch] in one that ends and gives the memory back.
type Stretcher func(p Params, salt, user, pass []byte) (x seal.Key, err error)

const (
	saltSize = 16
	// MaxPassphrase is the longest passphrase in bytes.
	MaxPassphrase = 1024
)

// ErrInput: a passphrase or name is empty or too long.
var ErrInput = errors.New("the passphrase or name is empty or too long")

// Stretch is Argon2id over the user name and the passphrase. The parameters are
// checked before anything is allocated.
func Stretch(p Params, salt, user, pass []byte) (seal.Key, error) {
	if err := p.Check(); err != nil {
		return seal.Key{}, err
	}
	if len(salt) != saltSize || len(user) == 0 || len(user) > MaxName || len(pass) == 0 || len(pass) > MaxPassphrase {
		return seal.Key{}, ErrInput
	}
	secret := appendLP(appendLP(make([]byte, 0, 8+len(user)+len(pass)), user), pass)
	defer clear(secret)
	x := argon2.IDKey(secret, salt, p.T, p.M, p.P, uint32(len(seal.Key{})))
	defer clear(x)
	return seal.Key(x), nil
}

const (
	requestMagic = "KISTSTR1"
	maxRequest   = len(requestMagic) + 4 + 4 + 1 + saltSize + 4 + MaxName + 4 + MaxPassphrase
)

// ChildStretch returns a Stretcher that runs argv as a process of its own, which
// must call [ServeStretch] on its standard input and output. The passphrase goes
// through the pipe, never through arguments or environment; the child gets no
// environment at all.
func ChildStretch(argv []string) Stretcher {
	return func(p Params, salt, user, pass []byte) (seal.Key, error) {
		if err := p.Check(); err != nil {
			return seal.Key{}, err
		}
		request := appendRequest(make([]byte, 0, maxRequest), p, salt, user, pass)
		defer clear(request[:cap(request)])
		var answer [len(seal.Key{}) + 1]byte
		defer clear(answer[:])
		n, err := runChild(argv, request, answer[:])
		if err != nil {
			return seal.Key{}, fmt.Errorf("the passphrase could not be stretched (is there enough memory?): %w", err)
		}
		if n != len(seal.Key{}) {
			return seal.Key{}, errors.New("the passphrase could not be stretched: the child process gave a wrong answer")
		}
		return seal.Key(answer[:n]), nil
	}
}

// runChild writes request to the child and reads its answer into buf.
func runChild(argv []string, request, buf []byte) (int, error) {
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = []string{}
	cmd.Stdin = bytes.NewReader(request)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	n, readErr := io.ReadFull(out, buf)
	if readErr == nil {
		// More than an answer: close our end so that the child cannot block on it.
		out.Close()
	}
	return n, cmd.Wait()
}

// ServeStretch is the child's side: it reads one request to its end, and writes
// the stretched key or returns an error and writes nothing.
func ServeStretch(r io.Reader, w io.Writer) error {
	request := make([]byte, maxRequest+1)
	defer clear(request)
	n, err := io.ReadFull(r, request)
	if err != io.ErrUnexpectedEOF {
		return errors.New("bad stretch request")
	}
	p, salt, user, pass, ok := parseRequest(request[:n])
	if !ok {
		return errors.New("bad stretch request")
	}
	x, err := Stretch(p, salt, user, pass)
	if err != nil {
		return err
	}
	defer x.Wipe()
	_, err = w.Write(x[:])
	return err
}

func appendRequest(b []byte, p Params, salt, user, pass []byte) []byte {
	b = appendParams(append(b, requestMagic...), p)
	b = append(b, salt...)
	return appendLP(appendLP(b, user), pass)
}

func parseRequest(b []byte) (p Params, salt, user, pass []byte, ok bool) {
	w := wire{rest: b}
	w.is(requestMagic)
	p = w.params()
	salt, user, pass = w.take(saltSize), w.lp(MaxName), w.lp(MaxPassphrase)
	return p, salt, user, pass, w.end()
}

func appendParams(b []byte, p Params) []byte {
	b = binary.BigEndian.AppendUint32(b, p.T)
	b = binary.BigEndian.AppendUint32(b, p.M)
	return append(b, p.P)
}

func (w *wire) params() Params { return Params{T: w.u32(), M: w.u32(), P: w.u8()} }
