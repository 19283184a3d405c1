package journal_test

import (
	"bytes"
	"slices"
	"testing"

	"kist/fs/journal"
)

// TestDamageIsTold damages the middle one of three segments: every further
// start and every look says the same, nothing but Forget ends it, and without
// the report the files themselves speak.
func TestDamageIsTold(t *testing.T) {
	d, model := threeSegments(t, 3)
	b := bytes.Clone(d.Bytes(seg2))
	b[len(b)-endMark-1] ^= 1
	d.SetBytes(seg2, b)

	look := func() *journal.View {
		t.Helper()
		before := d.Names()
		v, err := journal.Look(d, testKey, journal.Options{Vault: small.Vault})
		if err != nil {
			t.Fatal(err)
		}
		v.Close()
		if !slices.Equal(d.Names(), before) {
			t.Fatal("a look changed the directory")
		}
		return v
	}
	v := look()
	if len(v.Known) != 0 || len(v.Replay.Damage) != 2 || v.Replay.Damage[0].First != 6 || v.Replay.Damage[0].Last != 6 || v.Replay.Damage[1].First != 7 {
		t.Fatalf("before a start: %+v, %+v", v.Known, v.Replay.Damage)
	}
	r, n := reopen(t, d, model)
	if n != 5 || len(r.Damage) != 2 {
		t.Fatalf("%d records, %+v", n, r.Damage)
	}
	told := func(what string, want []journal.Damage) {
		t.Helper()
		if v := look(); !slices.Equal(v.Known, want) || len(v.Replay.Damage) > 0 {
			t.Errorf("%s: a look tells %+v and %+v, not %+v", what, v.Known, v.Replay.Damage, want)
		}
		j, r := open(t, d, journal.Options{Vault: small.Vault})
		if got := j.Damage(); !slices.Equal(got, want) || len(r.Damage) > 0 {
			t.Errorf("%s: a start tells %+v and %+v, not %+v", what, got, r.Damage, want)
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
	}
	told("the next time", r.Damage)
	aside := look().Aside
	if len(aside) != 2 || len(aside[0].Records) != 3 || aside[0].Records[2].Whole || !aside[0].Records[1].Whole || len(aside[1].Records) != 3 {
		t.Errorf("what still verifies: %+v", aside)
	}
	report := d.Bytes("damage")
	for _, bad := range [][]byte{nil, []byte("["), []byte("[{\"Segment\":77}]")} {
		d.SetBytes("damage", bad)
		v := look()
		if len(v.Known) != 2 || v.Known[0].File == "" || v.Known[0].Bytes == 0 {
			t.Errorf("without the report: %+v", v.Known)
		}
	}
	d.SetBytes("damage", report)

	// The segment whose beginning is in use stays; the other goes.
	gone, err := journal.Forget(d)
	if err != nil || len(gone) != 1 {
		t.Fatal(gone, err)
	}
	told("forgotten", nil)
	if _, n := reopen(t, d, model); n != 5 {
		t.Errorf("forgetting left %d records", n)
	}
}
