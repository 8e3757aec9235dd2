package mbox

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/kpopd/kpopd/maildrop"
	"github.com/kpopd/kpopd/maildrop/droptest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestRule040NumbersAreFixedAtOpen(t *testing.T)             { droptest.Rule040(t, harness) }
func TestRule044AnEmptyMaildropOpens(t *testing.T)              { droptest.Rule044(t, harness) }
func TestRule046SizesAreOctetsSent(t *testing.T)                { droptest.Rule046(t, harness) }
func TestRule048AVanishedMessageIsGone(t *testing.T)            { droptest.Rule048(t, harness) }
func TestRule051NothingGoesBeforeCommit(t *testing.T)           { droptest.Rule051(t, harness) }
func TestRule060UniqueIDsAreLegal(t *testing.T)                 { droptest.Rule060(t, harness) }
func TestRule061UniqueIDsPersist(t *testing.T)                  { droptest.Rule061(t, harness) }
func TestRule062UniqueIDsAreNotReused(t *testing.T)             { droptest.Rule062(t, harness) }
func TestRule068DeliveryDoesNotDisturbReading(t *testing.T)     { droptest.Rule068(t, harness) }
func TestRule069TheListingIsASnapshot(t *testing.T)             { droptest.Rule069(t, harness) }
func TestRule071AnyOctetsHaveTheSizeTheyAreSentIn(t *testing.T) { droptest.Rule071(t, harness) }
func TestRule072SizesSurviveARestart(t *testing.T)              { droptest.Rule072(t, harness) }
func TestRule073OnlyCommitRemoves(t *testing.T)                 { droptest.Rule073(t, harness) }
func TestRule074OnlyMarkedMessagesGo(t *testing.T)              { droptest.Rule074(t, harness) }
func TestRule076CommitFreesTheLock(t *testing.T)                { droptest.Rule076(t, harness) }
func TestRule078RemovedByAnotherIsRemoved(t *testing.T)         { droptest.Rule078(t, harness) }
func TestRule079NewMailStays(t *testing.T)                      { droptest.Rule079(t, harness) }
func TestRule171ASecondSessionIsRefused(t *testing.T)           { droptest.Rule171(t, harness) }
func TestRule172ALostSessionFreesTheLock(t *testing.T)          { droptest.Rule172(t, harness) }
func TestRule174DeliveryNeedsNoLock(t *testing.T)               { droptest.Rule174(t, harness) }
func TestRule175OthersMayExpunge(t *testing.T)                  { droptest.Rule175(t, harness) }
func TestCancelledContext(t *testing.T)                         { droptest.Cancelled(t, harness) }

// world is the spool and the state directory of one test.
type world struct {
	t           testing.TB
	root, state string
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t, filepath.Join(t.TempDir(), "spool"), filepath.Join(t.TempDir(), "state")}
	if err := errors.Join(os.Mkdir(w.root, 0o700), os.Mkdir(w.state, 0o700)); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) store(o Options) *Store {
	w.t.Helper()
	o.State = w.state
	if o.Reserve == 0 {
		o.Reserve = 64 << 10
	}
	s, err := New(w.root, o)
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

func (w *world) file(user string) string { return filepath.Join(w.root, user) }

func (w *world) read(user string) string {
	w.t.Helper()
	b, err := os.ReadFile(w.file(user))
	if err != nil {
		w.t.Fatal(err)
	}
	return string(b)
}

func (w *world) write(user, text string) {
	w.t.Helper()
	if err := os.WriteFile(w.file(user), []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

const fromLine = "From sender@example.test Tue Nov 14 22:13:20 2023\n"

// asDelivered is a message as it is appended.
func asDelivered(stored string) string { return fromLine + ended(stored) + "\n" }

// ended is a message with the line end that every agent adds.
func ended(stored string) string {
	if stored != "" && !strings.HasSuffix(stored, "\n") {
		stored += "\n"
	}
	return stored
}

// deliver appends as agents do, under the fcntl lock that they wait for.
func (w *world) deliver(user, text string) {
	f := w.locked(user)
	defer f.Close()
	if _, err := f.WriteString(text); err != nil {
		w.t.Error(err)
	}
}

// locked opens the file to append to it, and makes it.
func (w *world) locked(user string) *os.File {
	f, err := os.OpenFile(w.file(user), os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err == nil {
		err = unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLKW, &unix.Flock_t{Type: unix.F_WRLCK})
	}
	if err != nil {
		w.t.Error(err)
	}
	return f
}

// part finds a message in the file by its unique-id, through the index.
func (w *world) part(s *Store, user, uid string) entry {
	w.t.Helper()
	l := s.loadIndex(user)
	if l == nil {
		w.t.Fatal("no index")
	}
	// others may have changed the file since: the one that is there in its place
	f, err := os.Open(w.file(user))
	if err != nil {
		w.t.Fatal(err)
	}
	defer f.Close()
	now, err := (&spool{store: s, path: user, fd: int(f.Fd())}).refresh(w.t.Context(), l)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, e := range now.entries {
		if e.uid == uid {
			return e
		}
	}
	w.t.Fatalf("no message %q", uid)
	return entry{}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// harness delivers, removes, and marks as read, as other programs do. All messages
// have one From_ line, so that nothing but the octets behind it tells them apart.
func harness(t *testing.T) *droptest.Harness { return harnessWith(t, Options{}) }

func harnessWith(t *testing.T, o Options) *droptest.Harness {
	w := newWorld(t)
	store := func() *Store {
		s := w.store(o)
		s.calls.fsync = func(int) error { return nil } // no power is cut, and the disk may be busy
		return s
	}
	s := store()
	var n atomic.Int64
	edit := func(user, uid string, with func(e entry, text string) string) {
		e, text := w.part(s, user, uid), w.read(user)
		w.write(user, text[:e.offset]+with(e, text[e.offset:e.end])+text[e.end:])
	}
	return &droptest.Harness{
		Store:   s,
		Restart: func() maildrop.Store { return store() },
		Deliver: func(user, stored string) { n.Add(1); w.deliver(user, asDelivered(stored)) },
		Stored: func(delivered string) string {
			return strings.Replace(ended(delivered), "Status: RO\nX-Status: D\n", "", 1)
		},
		Remove: func(user, uid string) { edit(user, uid, func(entry, string) string { return "" }) },
		Rename: func(user, uid string) {
			edit(user, uid, func(e entry, text string) string {
				return text[:e.line] + "Status: RO\nX-UID: 7\n" + text[e.line:]
			})
		},
	}
}

func TestStoreWithOneLock(t *testing.T) {
	t.Parallel()
	for _, way := range []string{Fcntl, Dotlock} {
		t.Run(way, func(t *testing.T) {
			droptest.RunStore(t, func(t *testing.T) *droptest.Harness {
				return harnessWith(t, Options{Locks: []string{way}})
			})
		})
	}
}

// The index is thrown away before each opening: what it would say must be found
// again, but for ids of messages that are gone.
func TestStoreWithoutIndex(t *testing.T) {
	t.Parallel()
	lossy := func(t *testing.T) *droptest.Harness {
		h := harness(t)
		s := h.Store.(*Store)
		forget := func() {
			if err := os.Remove(filepath.Join(s.options.State, stateName("alice", "index"))); err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Error(err)
			}
		}
		deliver, restart := h.Deliver, h.Restart
		h.Deliver = func(user, stored string) { deliver(user, stored); forget() }
		h.Restart = func() maildrop.Store { forget(); return restart() }
		return h
	}
	for name, rule := range map[string]func(*testing.T, droptest.New){
		"Rule061": droptest.Rule061, "Rule071": droptest.Rule071,
		"Rule072": droptest.Rule072, "Rule074": droptest.Rule074, "Rule079": droptest.Rule079,
	} {
		t.Run(name, func(t *testing.T) { rule(t, lossy) })
	}
}

// session opens alice's maildrop.
func session(t testing.TB, s *Store) *drop {
	t.Helper()
	d, err := s.Open(t.Context(), maildrop.Ref{User: "alice"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d.(*drop)
}

func textOf(t testing.TB, d maildrop.Drop, i int) string {
	t.Helper()
	r, err := d.Content(t.Context(), i)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// list is what a session of its own shows of alice's maildrop.
func list(t testing.TB, s *Store) (uids, texts []string) {
	t.Helper()
	d := session(t, s)
	defer d.Close()
	for i, m := range d.messages {
		text := textOf(t, d, i)
		if wire := droptest.Wire(text); m.Size != int64(len(wire)) {
			t.Errorf("message %d: size %d, is sent with %d", i, m.Size, len(wire))
		}
		uids, texts = append(uids, m.UID), append(texts, text)
	}
	return uids, texts
}

func wantTexts(t testing.TB, s *Store, want ...string) {
	t.Helper()
	if _, texts := list(t, s); !slices.Equal(texts, want) {
		t.Errorf("messages %q, want %q", texts, want)
	}
}

// captured is a log.
func captured(b *strings.Builder) *slog.Logger { return slog.New(slog.NewTextHandler(b, nil)) }

// The pseudo message of UW's servers and of Dovecot is neither listed nor removed,
// also when it is all that is left.
func TestPseudoMessageIsHiddenAndKept(t *testing.T) {
	t.Parallel()
	for name, from := range map[string]string{"UW": "From MAILER-DAEMON ", "Dovecot": "From MAILER_DAEMON  "} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pseudo := from + "Tue Nov 14 22:13:20 2023\n" +
				"Date: Tue, 14 Nov 2023 22:13:20 +0000\nFrom: Mail System Internal Data <MAILER-DAEMON@host>\n" +
				"Subject: DON'T DELETE THIS MESSAGE -- FOLDER INTERNAL DATA\nMessage-ID: <1700000000@host>\n" +
				"X-IMAP: 1700000000 0000000002\nStatus: RO\n\n" +
				"This text is part of the internal format of your mail folder, and is not\na real message.\n\n"
			w := newWorld(t)
			s := w.store(Options{})
			w.write("alice", pseudo+asDelivered("Subject: a\n\na\n")+asDelivered("Subject: b\n\nb\n"))
			wantTexts(t, s, "Subject: a\n\na\n", "Subject: b\n\nb\n")
			if err := session(t, s).Commit(t.Context(), []int{0, 1}); err != nil {
				t.Fatal(err)
			}
			if got := w.read("alice"); got != pseudo {
				t.Errorf("the file is %q", got)
			}
			wantTexts(t, s)
			// one that is not at the start is a message
			w.deliver("alice", pseudo)
			if uids, _ := list(t, s); len(uids) != 1 {
				t.Errorf("%d messages, want 1", len(uids))
			}
		})
	}
}

// What Dovecot and UW write into headers is not sent, and changes no unique-id; the
// order of times and the mode survive a removal.
func TestHeadersOfOtherServers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.store(Options{})
	w.write("alice", asDelivered("Subject: a\n\na\n")+asDelivered("Subject: b\n\nb\n"))
	before, texts := list(t, s)
	w.write("alice", fromLine+"X-IMAPbase: 1700000000 2\nSubject: a\nX-UID: 1\nX-Keywords: one\n two\nstatus : RO\n\na\n\n"+
		fromLine+"Subject: b\nX-UID: 2\nContent-Length: 99999\nX-Status: A\n\nb\n\n")
	after, again := list(t, s)
	if !slices.Equal(after, before) || !slices.Equal(again, texts) {
		t.Errorf("%q of %q, were %q of %q", again, after, texts, before)
	}
	if err := os.Remove(filepath.Join(w.state, stateName("alice", "index"))); err != nil {
		t.Fatal(err)
	}
	if rebuilt, _ := list(t, s); !slices.Equal(rebuilt, before) {
		t.Errorf("without the index: %q", rebuilt)
	}

	old := time.Unix(1700000000, 5)
	if err := errors.Join(os.Chmod(w.file("alice"), 0o660), os.Chtimes(w.file("alice"), old, old.Add(time.Hour))); err != nil {
		t.Fatal(err)
	}
	inode := must(os.Stat(w.file("alice")))
	if err := session(t, s).Commit(t.Context(), []int{0}); err != nil {
		t.Fatal(err)
	}
	now := must(os.Stat(w.file("alice")))
	if !os.SameFile(inode, now) || now.Mode() != 0o660 || !now.ModTime().Equal(old.Add(time.Hour)) {
		t.Errorf("the file is another, of mode %v and time %v", now.Mode(), now.ModTime())
	}
}

// A file that is away, or empty for a while, and is back has the ids that it had.
func TestARestoredFileKeepsItsIDs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.store(Options{})
	text := asDelivered("Subject: a\n\n") + asDelivered("Subject: a\n\n") + asDelivered("Subject: b\n\n")
	w.write("alice", text)
	before, _ := list(t, s)
	for _, away := range []func(){
		func() { w.write("alice", "") },
		func() { os.Remove(w.file("alice")) },
	} {
		away()
		wantTexts(t, s)
		w.write("alice", text)
		if after, _ := list(t, s); !slices.Equal(after, before) {
			t.Errorf("ids %q, were %q", after, before)
		}
	}
}

// Unique-ids of another scheme are taken as long as they can be, and stay when the
// scheme is gone.
func TestOtherUniqueIDs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.write("alice", asDelivered("X-UIDL: one\n\n")+asDelivered("X-UIDL: one\nSubject: b\n\n")+asDelivered("X-UIDL: a b\n\n")+asDelivered("Subject: c\n\n"))
	s := w.store(Options{UIDs: func(first []byte) (func([]byte) string, error) {
		if !strings.Contains(string(first), "\nX-UIDL: one\n\n") {
			t.Errorf("the first message is %q", first)
		}
		return func(head []byte) string {
			_, after, _ := strings.Cut(string(head), "X-UIDL: ")
			uid, _, _ := strings.Cut(after, "\n")
			if !strings.HasPrefix(string(head), "From ") {
				t.Errorf("asked about %q", head)
			}
			return uid
		}, nil
	}})
	uids, _ := list(t, s)
	if uids[0] != "one" || uids[1] != "one-2" || slices.Contains(uids, "a b") || uids[3] == "" {
		t.Errorf("ids %q", uids)
	}
	w.deliver("alice", asDelivered("X-UIDL: one\n\n"))
	if more, _ := list(t, s); !slices.Equal(more[:4], uids) || more[4] != "one-3" {
		t.Errorf("ids became %q, were %q", more, uids)
	}
	uids = append(uids, "one-3")
	w.deliver("alice", asDelivered("d\n"))
	if after, _ := list(t, w.store(Options{})); !slices.Equal(after[:5], uids) {
		t.Errorf("ids became %q, were %q", after, uids)
	}
}

func TestWhatIsNoMbox(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.store(Options{})
	open := func() error {
		d, err := s.Open(t.Context(), maildrop.Ref{User: "alice"})
		if err == nil {
			d.Close()
		}
		return err
	}
	for _, text := range []string{"hello\n", "From me to you\n\n", "\x7fELF\x00\x00", "Fr\x00", "\nFrom here on\n"} {
		w.write("alice", text)
		if err := open(); !errors.Is(err, maildrop.ErrPermanent) {
			t.Errorf("%q: %v, want ErrPermanent", text, err)
		}
		if got := w.read("alice"); got != text {
			t.Errorf("%q was changed to %q", text, got)
		}
	}
	if err := errors.Join(os.Remove(w.file("alice")), os.Symlink("/etc/passwd", w.file("alice"))); err != nil {
		t.Fatal(err)
	}
	if err := open(); !errors.Is(err, maildrop.ErrPermanent) {
		t.Errorf("a symbolic link: %v", err)
	}
	if err := errors.Join(os.Remove(w.file("alice")), unix.Mkfifo(w.file("alice"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := open(); !errors.Is(err, maildrop.ErrPermanent) {
		t.Errorf("a FIFO: %v", err)
	}
	if _, err := s.Open(t.Context(), maildrop.Ref{User: "a", Path: "../x"}); !errors.Is(err, maildrop.ErrPermanent) {
		t.Errorf("a path out of the root: %v", err)
	}
	os.Remove(w.file("alice"))
	if err := os.Rename(w.root, w.root+".away"); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(w.root, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := open(); !errors.Is(err, maildrop.ErrTemporary) {
		t.Errorf("another root, as after a lost mount: %v, want ErrTemporary", err)
	}
}

func TestOwner(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.write("alice", asDelivered("a\n"))
	_, err := w.store(Options{Owner: uint32(os.Getuid()) + 1}).Open(t.Context(), maildrop.Ref{User: "alice"})
	if !errors.Is(err, maildrop.ErrPermanent) {
		t.Errorf("a file of another user: %v, want ErrPermanent", err)
	}
}

func TestOptions(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for i, o := range []Options{
		{State: w.state, Layout: "{"},
		{State: w.state, Locks: []string{"flock"}},
		{State: w.state, Locks: []string{Fcntl, Fcntl}},
		{State: filepath.Join(w.state, "none")},
	} {
		if _, err := New(w.root, o); err == nil {
			t.Errorf("options %d are taken", i)
		}
	}
	if err := os.Chmod(w.state, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := New(w.root, Options{State: w.state}); err == nil {
		t.Error("a state directory that others may write to is taken")
	}
}

func TestStateNames(t *testing.T) {
	t.Parallel()
	seen := map[string]string{}
	for _, path := range []string{"a", "a/b", "a%2Fb", "=a", "kpopd.lock", strings.Repeat("x", 300), strings.Repeat("x", 301), "%"} {
		name := stateName(path, "index")
		if strings.Contains(name, "/") || len(name) > 230 || name == lockFile || seen[name] != "" {
			t.Errorf("%q of %q", name, path)
		}
		seen[name] = path
	}
	if fmt.Sprint(stateName("alice", "redo")) != "=alice.redo" {
		t.Error("a plain name is not readable")
	}
}
