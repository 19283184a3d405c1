package fs

import (
	"context"
	"errors"
	"fmt"
	"syscall"
)

// spot is a name somewhere in the tree of a machine, and what stands there.
type spot struct {
	dir  Ino
	name string
	path string
	a    Attr // zero: nothing
	text string
}

func (s spot) is(format uint32) bool { return s.a.Mode&syscall.S_IFMT == format }

// somewhere picks a directory at random and a name in it: one that is there, or one of a few.
func (c *crowd) somewhere(m *machine, there bool) spot {
	ctx := context.Background()
	s := spot{dir: RootIno}
	for {
		ents, err := m.v.ReadDir(ctx, s.dir, "", 1000)
		c.d.check(err)
		if there && len(ents) == 0 {
			return spot{}
		}
		s.name = string(rune('a' + c.rnd.IntN(5)))
		if there {
			s.name = ents[c.rnd.IntN(len(ents))].Name
		}
		s.a, err = m.v.Lookup(ctx, s.dir, s.name)
		if err != nil && !errors.Is(err, syscall.ENOENT) {
			c.d.t.Fatalf("%s: lookup %s%s: %v", m.name, s.path, s.name, err)
		}
		if !s.is(syscall.S_IFDIR) || c.rnd.IntN(3) == 0 {
			s.text = c.text(m, s.a)
			return s
		}
		s.path, s.dir = s.path+s.name+"/", s.a.Ino
	}
}

func (c *crowd) text(m *machine, a Attr) string {
	if a.Mode&syscall.S_IFMT != syscall.S_IFREG {
		return ""
	}
	p := make([]byte, a.Size)
	_, err := m.v.Read(context.Background(), a.Ino, p, 0)
	c.d.check(err)
	return string(p)
}

// mine says whether all that is in a file came from one machine.
func (c *crowd) mine(m *machine, text string) bool {
	for _, k := range tokenForm.FindAllString(text, -1) {
		if k[1:2] != m.name {
			return false
		}
	}
	return true
}

// kill notes that a machine removes its own tokens.
func (c *crowd) kill(m *machine, text string) {
	for _, k := range tokenForm.FindAllString(text, -1) {
		if c.tokens[k] != nil && c.tokens[k].maker == m {
			c.tokens[k].dead = true
		}
	}
}

// token makes a new one, to be written to a file.
func (c *crowd) token(m *machine) string { return fmt.Sprintf("<%s%d>", m.name, len(c.log)) }

func (c *crowd) wrote(m *machine, k string, ino Ino, edit bool) {
	on := fmt.Sprint(m.name, ino)
	c.tokens[k] = &token{maker: m, on: on, at: len(c.log)}
	if edit {
		c.edits[on] = len(c.log)
	}
}

func (c *crowd) operation(m *machine) {
	switch c.rnd.IntN(22) {
	case 0, 1, 2:
		c.create(m)
	case 3, 4, 5, 6, 7:
		c.write(m)
	case 8:
		c.save(m)
	case 9, 10:
		c.mkdir(m)
	case 11, 12, 13:
		c.rename(m)
	case 14, 15:
		c.remove(m)
	case 16, 17:
		c.link(m)
	case 18:
		c.attributes(m)
	case 19:
		c.exchange(m)
	case 20:
		c.nameless(m)
	case 21:
		c.named(m)
	}
}

func (c *crowd) create(m *machine) {
	s, ctx := c.somewhere(m, false), context.Background()
	if s.a.Ino != 0 {
		return
	}
	k := c.token(m)
	c.note(m, "create %s%s %s", s.path, s.name, k)
	a, err := m.v.Create(ctx, Cred{}, s.dir, s.name, syscall.S_IFREG|0o644, 0)
	c.d.check(err)
	_, err = m.v.Write(ctx, a.Ino, []byte(k), 0, WriteOpts{})
	c.d.check(err)
	c.wrote(m, k, a.Ino, false)
}

// write appends, writes behind the end, or over what is the machine's own.
func (c *crowd) write(m *machine) {
	s := c.somewhere(m, true)
	if !s.is(syscall.S_IFREG) {
		return
	}
	ctx, k := context.Background(), c.token(m)
	var err error
	how := c.rnd.IntN(4)
	switch {
	case how < 2 || c.gentle:
		c.note(m, "append %s%s %s", s.path, s.name, k)
		_, err = m.v.Write(ctx, s.a.Ino, []byte(k), 0, WriteOpts{Append: true})
		c.wrote(m, k, s.a.Ino, false)
	case how == 2:
		c.note(m, "write %s%s at %d: %s", s.path, s.name, len(s.text), k)
		_, err = m.v.Write(ctx, s.a.Ino, []byte(k), s.a.Size, WriteOpts{})
		c.wrote(m, k, s.a.Ino, true)
	case c.mine(m, s.text):
		c.note(m, "write %s%s anew: %s", s.path, s.name, k)
		c.kill(m, s.text)
		if c.rnd.IntN(2) == 0 {
			_, err = m.v.Setattr(ctx, s.a.Ino, SetAttr{Mask: SetSize})
			c.d.check(err)
		}
		_, err = m.v.Write(ctx, s.a.Ino, []byte(k), 0, WriteOpts{})
		c.wrote(m, k, s.a.Ino, true)
	}
	c.d.check(err)
}

// save writes a new file over what is the machine's own.
func (c *crowd) save(m *machine) {
	s := c.somewhere(m, true)
	if !s.is(syscall.S_IFREG) || !c.mine(m, s.text) || s.a.Nlink > 1 {
		return
	}
	k := c.token(m)
	c.note(m, "save %s%s: %s", s.path, s.name, k)
	c.kill(m, s.text)
	ctx := context.Background()
	tmp := fmt.Sprintf(".tmp%d", len(c.log))
	a, err := m.v.Create(ctx, Cred{}, s.dir, tmp, syscall.S_IFREG|0o644, 0)
	c.d.check(err)
	_, err = m.v.Write(ctx, a.Ino, []byte(k), 0, WriteOpts{})
	c.d.check(err)
	c.d.check(m.v.Rename(ctx, s.dir, tmp, s.dir, s.name, 0))
	c.wrote(m, k, a.Ino, false)
}

func (c *crowd) mkdir(m *machine) {
	s, ctx := c.somewhere(m, false), context.Background()
	if s.a.Ino != 0 {
		return
	}
	c.note(m, "mkdir %s%s", s.path, s.name)
	a, err := m.v.Create(ctx, Cred{}, s.dir, s.name, syscall.S_IFDIR|0o755, 0)
	c.d.check(err)
	if c.rnd.IntN(2) == 0 {
		k := c.token(m)
		f, err := m.v.Create(ctx, Cred{}, a.Ino, "a", syscall.S_IFREG|0o644, 0)
		c.d.check(err)
		_, err = m.v.Write(ctx, f.Ino, []byte(k), 0, WriteOpts{})
		c.d.check(err)
		c.wrote(m, k, f.Ino, false)
	}
}

func (c *crowd) rename(m *machine) {
	s, to := c.somewhere(m, true), c.somewhere(m, false)
	if s.a.Ino == 0 || to.a.Ino != 0 && (s.is(syscall.S_IFDIR) != to.is(syscall.S_IFDIR) || !c.mine(m, to.text) || to.a.Nlink > 1) {
		return
	}
	err := m.v.Rename(context.Background(), s.dir, s.name, to.dir, to.name, 0)
	c.note(m, "rename %s%s %s%s: %v", s.path, s.name, to.path, to.name, err)
	if err == nil && s.a.Ino != to.a.Ino {
		c.kill(m, to.text)
	}
	c.refused(m, err, syscall.EINVAL, syscall.ENOTEMPTY)
}

func (c *crowd) refused(m *machine, err error, may ...error) {
	for _, e := range may {
		if errors.Is(err, e) {
			return
		}
	}
	c.d.check(err)
}

func (c *crowd) remove(m *machine) {
	s, ctx := c.somewhere(m, true), context.Background()
	switch {
	case s.a.Ino == 0 || !c.mine(m, s.text):
	case s.is(syscall.S_IFDIR):
		err := m.v.Rmdir(ctx, s.dir, s.name)
		c.note(m, "rmdir %s%s: %v", s.path, s.name, err)
		c.refused(m, err, syscall.ENOTEMPTY)
	default:
		c.note(m, "rm %s%s", s.path, s.name)
		c.kill(m, s.text)
		c.d.check(m.v.Unlink(ctx, s.dir, s.name))
	}
}

func (c *crowd) link(m *machine) {
	s, to := c.somewhere(m, true), c.somewhere(m, false)
	if !s.is(syscall.S_IFREG) || to.a.Ino != 0 {
		return
	}
	c.note(m, "link %s%s %s%s", s.path, s.name, to.path, to.name)
	_, err := m.v.Link(context.Background(), s.a.Ino, to.dir, to.name)
	c.d.check(err)
}

func (c *crowd) attributes(m *machine) {
	s, ctx := c.somewhere(m, true), context.Background()
	if s.a.Ino == 0 {
		return
	}
	c.note(m, "attributes of %s%s", s.path, s.name)
	_, err := m.v.Setattr(ctx, s.a.Ino, SetAttr{Mask: SetMode, Mode: uint32(c.rnd.IntN(0o1000))})
	c.d.check(err)
	c.d.check(m.v.Setxattr(ctx, s.a.Ino, "user."+m.name, []byte{byte(c.rnd.IntN(9))}, 0))
}

func (c *crowd) exchange(m *machine) {
	s, to := c.somewhere(m, true), c.somewhere(m, true)
	if s.a.Ino == 0 || to.a.Ino == 0 {
		return
	}
	err := m.v.Rename(context.Background(), s.dir, s.name, to.dir, to.name, RenameExchange)
	c.note(m, "exchange %s%s %s%s: %v", s.path, s.name, to.path, to.name, err)
	c.refused(m, err, syscall.EINVAL)
}

// nameless makes a file without a name; named gives one to the oldest of them.
func (c *crowd) nameless(m *machine) {
	k, ctx := c.token(m), context.Background()
	c.note(m, "nameless %s", k)
	a, err := m.v.Tmpfile(ctx, Cred{}, RootIno, 0o644)
	c.d.check(err)
	_, err = m.v.Write(ctx, a.Ino, []byte(k), 0, WriteOpts{})
	c.d.check(err)
	c.temps = append(c.temps, temp{m, a.Ino, k})
}

func (c *crowd) named(m *machine) {
	to := c.somewhere(m, false)
	for i, t := range c.temps {
		if t.m != m || to.a.Ino != 0 {
			continue
		}
		c.temps = append(c.temps[:i:i], c.temps[i+1:]...)
		c.note(m, "name %s%s %s", to.path, to.name, t.text)
		_, err := m.v.Link(context.Background(), t.ino, to.dir, to.name)
		c.d.check(err)
		c.wrote(m, t.text, t.ino, false)
		return
	}
}
