package crash

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// ledger is what a process saw and was promised, in a file that is mapped into
// its memory: writing a line is no system call, and the line is there when the
// process is killed after it.
type ledger struct {
	mem []byte
	n   int

	// powered is a file on the disk whose power is cut; "" where nobody cuts it.
	powered string
}

const ledgerSize = 1 << 20

// makeLedger makes an empty ledger file.
func makeLedger(path string) error {
	return errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, ledgerSize))
}

func openLedger(path string) (*ledger, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	mem, err := unix.Mmap(int(f.Fd()), 0, ledgerSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map the ledger: %w", err)
	}
	return &ledger{mem: mem}, nil
}

// say adds a line. Its end comes last, so that half a line is none.
//
// Where the power is cut, nothing is heard after that: an fsync which the cut
// overtakes still succeeds here, and has written nothing. On a real machine nobody
// would be there to be told.
func (l *ledger) say(words ...any) {
	if l.powered != "" {
		f, err := os.Open(l.powered)
		if err != nil {
			return
		}
		f.Close()
	}
	line := strings.ReplaceAll(fmt.Sprintln(words...), "\n", " ")
	copy(l.mem[l.n:], line)
	l.n += len(line)
	l.mem[l.n-1] = '\n' // panics when the ledger is full
}

// readLedger returns the lines of a ledger, split into the word that says what
// it is about and the rest.
func readLedger(path string) (lines [][2]string, err error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	text, _, _ := strings.Cut(string(b), "\x00")
	for line := range strings.Lines(text) {
		if line, whole := strings.CutSuffix(line, "\n"); whole {
			word, rest, _ := strings.Cut(line, " ")
			lines = append(lines, [2]string{word, rest})
		}
	}
	return lines, nil
}
