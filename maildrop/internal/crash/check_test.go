package crash

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/kpopd/kpopd/maildrop"
)

// fate is what may have become of a message.
type fate int

const (
	stays  fate = iota // it must be there
	either             // its deletion, or its delivery, was on the way
	gone               // it must not be there
)

// books is what is known of a maildrop from all ledgers.
type books struct {
	fates map[int]fate
	ids   map[int]string // unique-ids that messages were shown with
}

func newBooks() *books { return &books{make(map[int]fate), make(map[int]string)} }

// account is one process's ledger, entered into the books.
type account struct {
	begun, ended   bool
	replies        [][2]string // of the session, word and what the server said
	broke, stopped string
	leaked         int
}

// enter takes a ledger into the books. It returns what contradicts them.
func (b *books) enter(lines [][2]string) (a account, wrong []string) {
	var marked []int
	for _, l := range lines {
		word, rest := l[0], l[1]
		number, id, _ := strings.Cut(rest, " ")
		n, _ := strconv.Atoi(number)
		switch word {
		case "begin":
			a.begun = true
		case "end":
			a.ended = true
		case "stopped":
			a.stopped = rest
		case "leaked":
			a.leaked = n
		case "broke":
			a.broke = rest
		case "delivering":
			b.fates[n] = either
		case "delivered":
			b.fates[n] = stays
		case "mail":
			wrong = append(wrong, b.show(n, strings.TrimSpace(id))...)
		case "marked":
			marked = append(marked, n)
		case "quitting":
			for _, n := range marked {
				b.fates[n] = either
			}
		case "login", "read", "quit":
			a.replies = append(a.replies, [2]string{word, strings.TrimSpace(rest)})
			if word == "quit" && strings.TrimSpace(rest) == "+OK" {
				for _, n := range marked {
					b.fates[n] = gone
				}
			}
			if word == "login" {
				marked = nil
			}
		}
	}
	return a, wrong
}

// show is told that message n was shown with a unique-id.
func (b *books) show(n int, id string) (wrong []string) {
	f, known := b.fates[n]
	switch old, shown := b.ids[n]; {
	case !known:
		wrong = append(wrong, fmt.Sprintf("message %d was never delivered", n))
	case f == gone:
		wrong = append(wrong, fmt.Sprintf("message %d was removed, and is shown again", n))
	case shown && old != id:
		wrong = append(wrong, fmt.Sprintf("message %d has the unique-id %q, had %q", n, id, old))
	}
	for other, theirs := range b.ids {
		if other != n && theirs == id {
			wrong = append(wrong, fmt.Sprintf("message %d has the unique-id %q of message %d", n, id, other))
		}
	}
	b.ids[n] = id
	return wrong
}

// check opens the maildrop as the next server would, and returns what is not as
// the books have it. What was undecided is decided then.
func (b *books) check(s store, root string) (wrong []string) {
	there := make(map[int]bool)
	err := list(s, root, func(n int, m maildrop.Message, stored string) {
		if there[n] {
			wrong = append(wrong, fmt.Sprintf("message %d is there twice", n))
		}
		there[n] = true
		if n == 0 {
			wrong = append(wrong, fmt.Sprintf("a message is none that was delivered: %.200q", stored))
			return
		}
		if size := int64(len(strings.ReplaceAll(lf(stored), "\n", "\r\n"))); m.Size != size {
			wrong = append(wrong, fmt.Sprintf("message %d is listed with %d octets, has %d", n, m.Size, size))
		}
		wrong = append(wrong, b.show(n, m.UID)...)
	})
	if err != nil {
		return append(wrong, "the next session: "+err.Error())
	}
	for _, n := range slices.Sorted(maps.Keys(b.fates)) {
		switch {
		case b.fates[n] == stays && !there[n]:
			wrong = append(wrong, fmt.Sprintf("message %d is lost", n))
		case there[n]:
			b.fates[n] = stays
		default:
			b.fates[n] = gone
		}
	}
	files, err := count(filepath.Join(root, user))
	if err != nil {
		return append(wrong, err.Error())
	}
	for n, times := range files {
		if times != 1 || !there[n] && !s.trash {
			wrong = append(wrong, fmt.Sprintf("message %d is in the files %d times; listed: %v", n, times, there[n]))
		}
	}
	for n := range b.ids {
		if s.trash && files[n] == 0 {
			wrong = append(wrong, fmt.Sprintf("message %d is neither in the maildrop nor in its trash", n))
		}
	}
	return wrong
}

// list opens a maildrop and calls each with its messages.
func list(s store, root string, each func(n int, m maildrop.Message, stored string)) error {
	st, err := s.open(root)
	if err != nil {
		return err
	}
	d, err := st.Open(context.Background(), maildrop.Ref{User: user})
	if err != nil {
		return err
	}
	defer d.Close()
	messages, err := maildrop.List(context.Background(), d)
	if err != nil {
		return err
	}
	for i, m := range messages {
		r, err := d.Content(context.Background(), i)
		if err != nil {
			return err
		}
		stored, err := io.ReadAll(r)
		r.Close()
		if err != nil {
			return err
		}
		each(numberOf(string(stored)), m, string(stored))
	}
	return d.Commit(context.Background(), nil)
}

var anyNumber = regexp.MustCompile(`(?m)^X-Ledger: (\d+)\r?$`)

// count says how often each message is in the files of a maildrop, whatever
// these are, but for those that a deliverer left half written in a folder tmp.
func count(dir string) (times map[int]int, err error) {
	times = make(map[int]int)
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || filepath.Base(filepath.Dir(path)) == "tmp" {
			return err
		}
		text, err := os.ReadFile(path)
		for _, m := range anyNumber.FindAllSubmatch(text, -1) {
			n, _ := strconv.Atoi(string(m[1]))
			times[n]++
		}
		return err
	})
	return times, err
}
