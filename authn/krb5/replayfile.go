package krb5

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// FileReplay is a replay cache that outlives the process. Each tag is in the
// file before its request is accepted, so the file holds across a restart or a
// crash of the process. It is not synced with the disk at each login: a power
// cut can take the last seconds, and a machine takes longer than that to boot.
type FileReplay struct {
	path string

	mu   sync.Mutex
	f    *os.File
	size int64 // octets of whole records
	tags tagSet
	bad  error // the file failed; nobody gets in until a restart
}

// A record is tag, end (Unix seconds, big endian) and CRC-32 of both.
const (
	replayRecord = 32 + 8 + 4
	replayMagic  = "kpopd replay cache 1\n"
	// compactAt is the least number of records at which the file is written
	// anew, when more than half of them have ended.
	compactAt = 4096
)

// OpenFileReplay opens or makes the file, mode 0600, and locks it: one process
// uses it at a time. A torn record at its end is what a crash left, and is cut
// off.
func OpenFileReplay(path string) (*FileReplay, error) {
	f, err := openReplay(path, os.O_RDWR|os.O_CREATE)
	if err != nil {
		return nil, fmt.Errorf("replay cache: %w", err)
	}
	r := &FileReplay{path: path, f: f}
	if err := r.load(time.Now()); err != nil {
		f.Close()
		return nil, fmt.Errorf("replay cache %s: %w", path, err)
	}
	return r, nil
}

func openReplay(path string, flags int) (*os.File, error) {
	f, err := os.OpenFile(path, flags|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	switch {
	case err != nil:
	case !info.Mode().IsRegular():
		err = fmt.Errorf("%s: not a regular file", path)
	case info.Mode().Perm()&0o077 != 0:
		err = fmt.Errorf("%s: mode %04o lets others read or write it: chmod 600 it", path, info.Mode().Perm())
	default:
		lock := unix.Flock_t{Type: unix.F_WRLCK}
		if err = unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &lock); err != nil {
			err = fmt.Errorf("%s: in use by another process: %w", path, err)
		}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func (r *FileReplay) load(now time.Time) error {
	b, err := io.ReadAll(io.LimitReader(r.f, int64(len(replayMagic))+(maxReplays+compactAt)*4*replayRecord))
	if err != nil {
		return err
	}
	switch {
	case len(b) == 0, len(b) < len(replayMagic) && replayMagic[:len(b)] == string(b):
		r.size = int64(len(replayMagic))
		if _, err := r.f.WriteAt([]byte(replayMagic), 0); err != nil {
			return err
		}
		return r.f.Truncate(r.size)
	case len(b) < len(replayMagic) || string(b[:len(replayMagic)]) != replayMagic:
		return errors.New("not a replay cache: remove it, or name another file")
	}
	whole := len(replayMagic) + r.tags.parse(b[len(replayMagic):], now)
	r.size = int64(whole)
	return r.f.Truncate(r.size)
}

// parse adds the records in b that have not ended, and returns the octets of
// whole records. A damaged one is passed over: those after it still count.
func (s *tagSet) parse(b []byte, now time.Time) int {
	n := 0
	for ; len(b)-n >= replayRecord; n += replayRecord {
		rec := b[n : n+replayRecord]
		if crc32.ChecksumIEEE(rec[:40]) != binary.BigEndian.Uint32(rec[40:]) {
			continue
		}
		end := time.Unix(int64(binary.BigEndian.Uint64(rec[32:])), 0)
		if tag := [32]byte(rec[:32]); end.After(now) {
			if _, ok := s.ends[tag]; !ok {
				s.add(tag, end)
			}
		}
	}
	return n
}

func appendReplay(b []byte, tag [32]byte, end int64) []byte {
	start := len(b)
	b = append(b, tag[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(end))
	return binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(b[start:]))
}

// Seen implements [ReplayCache].
func (r *FileReplay) Seen(_ context.Context, tag [32]byte, expires time.Time) (bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.bad != nil {
		return false, r.bad
	}
	now := time.Now()
	seen, err := r.tags.has(tag, now)
	if seen || err != nil {
		return seen, err
	}
	rec := appendReplay(make([]byte, 0, replayRecord), tag, expires.Unix()+1)
	if _, err := r.f.WriteAt(rec, r.size); err != nil {
		// what is in the file now is cut off by the next write, or by load
		return false, fmt.Errorf("replay cache: %w", err)
	}
	r.size += replayRecord
	r.tags.add(tag, expires)
	if records := (r.size - int64(len(replayMagic))) / replayRecord; records > compactAt && records > 2*int64(len(r.tags.order)) {
		if err := r.compact(); err != nil {
			r.bad = fmt.Errorf("replay cache: %w", err)
			return false, r.bad
		}
	}
	return false, nil
}

// compact writes the file anew, without what has ended.
func (r *FileReplay) compact() (err error) {
	b := []byte(replayMagic)
	for _, tag := range r.tags.order {
		b = appendReplay(b, tag, r.tags.ends[tag])
	}
	tmp := filepath.Join(filepath.Dir(r.path), "."+filepath.Base(r.path)+".new")
	if err := os.Remove(tmp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	f, err := openReplay(tmp, os.O_RDWR|os.O_CREATE|os.O_EXCL)
	if err != nil {
		return err
	}
	if _, err = f.Write(b); err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = os.Rename(tmp, r.path)
	}
	if err != nil {
		f.Close()
		return errors.Join(err, os.Remove(tmp))
	}
	old := r.f
	r.f, r.size = f, int64(len(b))
	return old.Close()
}

// Close frees the file.
func (r *FileReplay) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.bad = errors.New("replay cache is closed")
	return r.f.Close()
}
