package peers

import (
	"bufio"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kpopd/kpopd/krb5test"
)

// The trash is for the help desk: Dovecot's IMAP shows the folders of a Maildir,
// and it is none.
func TestTrashIsNoFolder(t *testing.T) {
	t.Parallel()
	krb5test.Need(t, "imap")
	s := newShared(t)
	day := filepath.Join(s.maildir(), "kpopd-trash", "2026-01-02")
	if err := os.MkdirAll(day, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(day, "1.a"), []byte(s.text(1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if s.uid != nil {
		own(t, s.maildir(), int(s.uid.Uid))
	}
	cmd := s.command("imap", "-c", s.dir+"/dovecot.conf")
	var said strings.Builder
	cmd.Stderr = &said
	conn, err := s.attach(cmd)
	if err != nil {
		t.Fatal(err)
	}
	m := &mailReader{shared: s, conn: conn, lines: bufio.NewReader(conn)}
	if _, err := m.lines.ReadString('\n'); err != nil { // greeting
		t.Errorf("imap: %v\n%s", err, said.String())
	}
	folders, err := m.ask(`LIST "" "*"`)
	if err != nil || !strings.Contains(folders, "Archive") || strings.Contains(folders, "trash") {
		t.Errorf("folders: %v\n%s\n%s", err, folders, said.String())
	}
	if _, err := m.ask("LOGOUT"); err != nil {
		t.Error(err)
	}
	conn.Close()
	if err := cmd.Wait(); err != nil {
		t.Errorf("imap: %v\n%s", err, said.String())
	}
}
