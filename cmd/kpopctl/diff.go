package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kpopd/kpopd/cmd/internal/cli"
	"github.com/kpopd/kpopd/cmd/internal/snapshot"
)

func newDiff() *cobra.Command {
	var asJSON, all, details bool
	c := &cobra.Command{
		Use:   "diff BEFORE AFTER",
		Short: "Compare two snapshots, and say what clients would fetch again",
		Long: `Compare two snapshots, maildrop by maildrop, and say how many messages and octets
a client would fetch again that has everything and remembers the unique-ids.

  same       unique-id and place in the listing
  moved      the same unique-id, and another place among those that stay
  renamed    another unique-id: fetched again
  missing    not there any more
  new        not there before
  resized    the same message with another size
  duplicate  unique-ids that a message with a lower number has, too; before/after
  illegal    unique-ids that RFC 1939 does not allow; before/after

No mail is read, so a message whose unique-id has changed is found by its size,
or by its number when there are as many messages as before: that is a guess.

The status is 0 when everything is the same, 1 when there are differences, and 2
when the command line is wrong or a snapshot cannot be read.`,
		Example: "  kpopctl uidl diff old.jsonl new.jsonl\n" +
			"  kpopctl uidl diff old.jsonl new.jsonl --json --details",
		Args: exactly("BEFORE", "AFTER"),
		RunE: func(c *cobra.Command, args []string) error {
			var r report = &table{w: c.OutOrStdout(), all: all}
			if asJSON {
				r = &jsonReport{json.NewEncoder(c.OutOrStdout())}
			}
			same, err := diff(args[0], args[1], details, r)
			switch {
			case err != nil:
				return cli.Status(2, err) // as diff does
			case !same:
				return cli.Status(1, nil)
			}
			return nil
		},
	}
	f := c.Flags()
	f.BoolVar(&asJSON, "json", false, "write a line of JSON for each maildrop, and one with the totals")
	f.BoolVar(&all, "all", false, "show the maildrops that are the same, too; JSON always has them")
	f.BoolVar(&details, "details", false, "tell of each message what became of it")
	return c
}

// total adds up all maildrops.
type total struct {
	Maildrops int `json:"maildrops"`
	Equal     int `json:"equal"`
	Failed    int `json:"failed"` // without a listing in one of the snapshots
	snapshot.Counts
}

// report shows one maildrop after the other, and then the totals.
type report interface {
	maildrop(*snapshot.Difference) error
	total(*total) error
}

// diff compares two files, and says whether all is the same.
func diff(before, after string, details bool, r report) (same bool, err error) {
	a, err := openSnapshot(before)
	if err != nil {
		return false, err
	}
	defer a.close()
	b, err := openSnapshot(after)
	if err != nil {
		return false, err
	}
	defer b.close()
	users := slices.Concat(a.Users(), b.Users())
	slices.Sort(users)
	var t total
	for _, user := range slices.Compact(users) {
		d, err := compare(user, a, b)
		if err != nil {
			return false, err
		}
		t.add(d)
		if !details {
			d.Changes = nil
		}
		if err := r.maildrop(d); err != nil {
			return false, err
		}
	}
	return t.Equal == t.Maildrops, r.total(&t)
}

func (t *total) add(d *snapshot.Difference) {
	t.Maildrops++
	if d.Equal() {
		t.Equal++
	}
	if d.FailureBefore != "" || d.FailureAfter != "" {
		t.Failed++
	}
	t.Counts.Add(&d.Counts)
}

type openedSnapshot struct {
	*snapshot.File
	close func() error
}

func openSnapshot(path string) (*openedSnapshot, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	s, err := snapshot.Open(f)
	if err != nil {
		f.Close()
		return nil, err
	}
	return &openedSnapshot{s, f.Close}, nil
}

func compare(user string, a, b *openedSnapshot) (*snapshot.Difference, error) {
	before, err := a.Maildrop(user)
	if err != nil {
		return nil, err
	}
	after, err := b.Maildrop(user)
	if err != nil {
		return nil, err
	}
	return snapshot.Compare(user, before, after), nil
}

type jsonReport struct{ *json.Encoder }

func (r *jsonReport) maildrop(d *snapshot.Difference) error { return r.Encode(d) }

func (r *jsonReport) total(t *total) error {
	return r.Encode(map[string]*total{"total": t})
}

// row is a line of the table: columns of one width, so that a line can be shown
// before the next is known.
const row = "%-20s %7v %7v %7v %7v %7v %7v %7v %7v %9v %7v %7v %12v\n"

// table is for people.
type table struct {
	w     io.Writer
	all   bool
	begun bool
}

func (t *table) maildrop(d *snapshot.Difference) error {
	if d.Equal() && !t.all {
		return nil
	}
	var b strings.Builder
	if !t.begun {
		t.begun = true
		fmt.Fprintf(&b, row, "user", "before", "after", "same", "moved", "renamed", "missing", "new", "resized", "duplicate", "illegal", "again", "octets")
	}
	user := oneLine(d.User)
	if d.FailureBefore == "" && d.FailureAfter == "" {
		of := func(before, after int) string { return fmt.Sprintf("%d/%d", before, after) }
		fmt.Fprintf(&b, row, user, d.Before, d.After, d.Same, d.Moved, d.Renamed, d.Missing, d.New, d.Resized,
			of(d.DuplicatesBefore, d.DuplicatesAfter), of(d.IllegalBefore, d.IllegalAfter), d.Again, d.AgainOctets)
	}
	failure(&b, user, "before", d.FailureBefore)
	failure(&b, user, "after", d.FailureAfter)
	for _, c := range d.Changes {
		fmt.Fprintf(&b, "  %-8s %s -> %s\n", c.Kind, message(c.Before), message(c.After))
	}
	_, err := io.WriteString(t.w, b.String())
	return err
}

func failure(b *strings.Builder, user, when, why string) {
	if why != "" {
		fmt.Fprintf(b, "%-20s no listing %s: %s\n", user, when, oneLine(why))
	}
}

func message(m *snapshot.Message) string {
	if m == nil {
		return "none"
	}
	return fmt.Sprintf("%d %q %d octets", m.Number, m.UID, m.Size)
}

func (t *table) total(s *total) error {
	end := ""
	if t.begun {
		end = "\n"
	}
	_, err := fmt.Fprintf(t.w, end+"Maildrops: %d, of them %d the same, %d different, %d without a listing.\n"+
		"Clients would fetch again: messages %d, octets %d. New to them: messages %d, octets %d.\n",
		s.Maildrops, s.Equal, s.Maildrops-s.Equal-s.Failed, s.Failed,
		s.Again, s.AgainOctets, s.Fetch-s.Again, s.FetchOctets-s.AgainOctets)
	return err
}
