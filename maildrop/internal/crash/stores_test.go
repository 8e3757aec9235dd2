package crash

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/kpopd/kpopd/maildrop"
	"github.com/kpopd/kpopd/maildrop/maildir"
	"github.com/kpopd/kpopd/maildrop/mbox"
)

// store is one format of maildrops and what other programs do to alice's.
type store struct {
	name string

	// variant is a store of a row above in another use. Its calls are not made
	// to fail once more, which takes the longest.
	variant bool

	// trash says that a message which is no longer in the maildrop is in its trash.
	trash bool

	// rewrites says that removing writes to a file: when that fails for want of
	// room, QUIT may say so. A disk that is full does not fail where it has room.
	rewrites bool

	open func(root string) (maildrop.Store, error)

	// make makes an empty maildrop.
	make func(root string) error
	// put delivers a message without waiting for the disk.
	put func(root, text string) error
	// deliver delivers a message, and returns once it is on disk.
	deliver func(root, text string) error
	// show does what a mail client does to a maildrop that it has shown, or nil.
	show func(root string) error
}

var stores = []store{
	{
		name: "maildir",
		open: func(root string) (maildrop.Store, error) { return maildir.New(root, maildir.Options{}) },
		make: makeMaildir, put: putMaildir, deliver: deliverMaildir, show: showMaildir,
	},
	{
		name: "maildir with unique-ids of others", variant: true,
		open: func(root string) (maildrop.Store, error) {
			return maildir.New(root, maildir.Options{UIDs: madeUp})
		},
		make: makeMaildir, put: putMaildir, deliver: deliverMaildir, show: showMaildir,
	},
	{
		name: "maildir with a trash", variant: true, trash: true,
		open: func(root string) (maildrop.Store, error) {
			return maildir.New(root, maildir.Options{Trash: true})
		},
		make: makeMaildir, put: putMaildir, deliver: deliverMaildir, show: showMaildir,
	},
	{
		name: "mbox", rewrites: true,
		open: openMbox(mbox.Fcntl),
		make: makeMbox, put: putMbox, deliver: deliverMbox,
	},
	{
		name: "mbox with dotlocks", rewrites: true, variant: true,
		open: openMbox(mbox.Fcntl, mbox.Dotlock),
		make: makeMbox, put: putMbox, deliver: deliverMbox,
	},
}

// madeUp gives unique-ids that nobody can make again.
func madeUp(_ context.Context, _ int, bases []string, _ map[string]string) ([]string, error) {
	ids := make([]string, len(bases))
	for i := range ids {
		ids[i] = rand.Text()
	}
	return ids, nil
}

const user = "alice"

func storeNamed(name string) (store, error) {
	for _, s := range stores {
		if s.name == name {
			return s, nil
		}
	}
	return store{}, fmt.Errorf("no store %q", name)
}

func makeMaildir(root string) error { return maildir.Make(filepath.Join(root, user)) }

func deliverMaildir(root, text string) error {
	_, err := maildir.Deliver(filepath.Join(root, user), strings.NewReader(text))
	return err
}

var puts atomic.Int64

func putMaildir(root, text string) error {
	name, dir := fmt.Sprintf("17%08d.a", puts.Add(1)), filepath.Join(root, user)
	tmp := filepath.Join(dir, "tmp", name)
	return errors.Join(os.WriteFile(tmp, []byte(text), 0o600), os.Rename(tmp, filepath.Join(dir, "new", name)))
}

// showMaildir moves what is in new to cur.
func showMaildir(root string) error {
	dir := filepath.Join(root, user)
	files, err := os.ReadDir(filepath.Join(dir, "new"))
	for _, f := range files {
		err = errors.Join(err, os.Rename(filepath.Join(dir, "new", f.Name()), filepath.Join(dir, "cur", f.Name()+":2,S")))
	}
	return err
}

func openMbox(locks ...string) func(root string) (maildrop.Store, error) {
	return func(root string) (maildrop.Store, error) {
		return mbox.New(root, mbox.Options{State: filepath.Join(root, "state"), Locks: locks, Reserve: 64 << 10})
	}
}

// makeMbox makes a spool file, and has a server see it, which sets room aside.
func makeMbox(root string) error {
	err := errors.Join(os.Mkdir(filepath.Join(root, "state"), 0o700), os.WriteFile(filepath.Join(root, user), nil, 0o600))
	if err != nil {
		return err
	}
	st, err := openMbox(mbox.Fcntl)(root)
	if err != nil {
		return err
	}
	d, err := st.Open(context.Background(), maildrop.Ref{User: user})
	if err != nil {
		return err
	}
	return d.Close()
}

func putMbox(root, text string) error { return appendMbox(root, text, false) }

func deliverMbox(root, text string) error { return appendMbox(root, text, true) }

// appendMbox delivers as Postfix does.
func appendMbox(root, text string, sync bool) (err error) {
	f, err := os.OpenFile(filepath.Join(root, user), os.O_RDWR|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLKW, &unix.Flock_t{Type: unix.F_WRLCK}); err != nil {
		return err
	}
	if _, err := f.WriteString("From sender@example.test Tue Nov 14 22:13:20 2023\n" + text + "\n"); err != nil {
		return err
	}
	if sync {
		return f.Sync()
	}
	return nil
}

// message is the text of message number n. Sizes differ, and some messages are
// not in wire form.
func message(n int) string {
	end := [...]string{"\n", "\r\n"}[n%2]
	lines := []string{fmt.Sprintf("Subject: message %d", n), fmt.Sprintf("X-Ledger: %d", n), ""}
	for i := range n % 7 {
		lines = append(lines, strings.Repeat(fmt.Sprintf(".%d", i), n%40))
	}
	return strings.Join(append(lines, "end"), end) + end
}

var ledgerLine = regexp.MustCompile(`X-Ledger: (\d+)\r?\n`)

// numberOf is the number of the message with a text, 0 when there is none. Line
// ends may have become those of the wire.
func numberOf(text string) int {
	m := ledgerLine.FindStringSubmatch(text)
	if m == nil {
		return 0
	}
	n, err := strconv.Atoi(m[1])
	if err != nil || lf(text) != lf(message(n)) {
		return 0
	}
	return n
}

func lf(text string) string { return strings.ReplaceAll(text, "\r\n", "\n") }
