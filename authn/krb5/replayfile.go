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
// cut can take the last seconds, and what was accepted in them is good once more
// until its clock skew has passed.
type FileReplay struct {
	path string

	mu    sync.Mutex
	f     *os.File
	size  int64 // octets of whole records
	limit int64 // of size, from which on the file is written anew
	tags  tagSet
	bad   error // the file is not to be trusted; nobody gets in until a restart
}

// A record is tag, end (Unix seconds, big endian) and CRC-32 of both.
const (
	replayRecord = 32 + 8 + 4
	replayMagic  = "kpopd replay cache 1\n"
	// compactAt is the least number of records at which the file is written
	// anew. From then on it is when the file has twice the octets that it had
	// after the last time.
	compactAt     = 4096
	minReplayFile = int64(len(replayMagic)) + compactAt*replayRecord
	maxReplayFile = int64(len(replayMagic)) + 4*maxReplays*replayRecord
)

var errClosed = errors.New("replay cache is closed")

// OpenFileReplay opens or makes the file, mode 0600, and locks it: one process
// uses it at a time, and a second one gets an error. Damaged records at its end
// are what a crash or a power cut left, and are cut off. A damaged record before
// whole ones is an error: what it forbade could not be told any more.
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
		err = lockReplay(f, path, info)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// lockReplay also looks whether the file still goes by its name: another process
// may have written it anew between our open and our lock.
func lockReplay(f *os.File, path string, info os.FileInfo) error {
	lock := unix.Flock_t{Type: unix.F_WRLCK}
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &lock); err != nil {
		return fmt.Errorf("%s: in use by another process: %w", path, err)
	}
	named, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if !os.SameFile(info, named) {
		return fmt.Errorf("%s: in use by another process", path)
	}
	return nil
}

func (r *FileReplay) load(now time.Time) error {
	b, err := io.ReadAll(io.LimitReader(r.f, maxReplayFile+replayRecord))
	if err != nil {
		return err
	}
	r.limit = minReplayFile
	switch {
	case int64(len(b)) >= maxReplayFile+replayRecord:
		return fmt.Errorf("has more than %d octets", maxReplayFile)
	case len(b) == 0, len(b) < len(replayMagic) && replayMagic[:len(b)] == string(b):
		r.size = int64(len(replayMagic))
		if _, err := r.f.WriteAt([]byte(replayMagic), 0); err != nil {
			return err
		}
		return r.f.Truncate(r.size)
	case len(b) < len(replayMagic) || string(b[:len(replayMagic)]) != replayMagic:
		return errors.New("not a replay cache: remove it, or name another file")
	}
	whole, err := r.tags.parse(b[len(replayMagic):], now)
	if err != nil {
		return err
	}
	r.size = int64(len(replayMagic) + whole)
	return r.f.Truncate(r.size)
}

// parse adds the records in b that have not ended, and returns how many octets
// the records take up to the last whole one.
func (s *tagSet) parse(b []byte, now time.Time) (whole int, err error) {
	damaged := -1
	for n := 0; len(b)-n >= replayRecord; n += replayRecord {
		rec := b[n : n+replayRecord]
		if crc32.ChecksumIEEE(rec[:40]) != binary.BigEndian.Uint32(rec[40:]) {
			damaged = n
			continue
		}
		if damaged >= 0 {
			return 0, fmt.Errorf("damaged at octet %d: remove it when the last login is longer ago than three times the clock skew", len(replayMagic)+damaged)
		}
		whole = n + replayRecord
		end := time.Unix(int64(binary.BigEndian.Uint64(rec[32:])), 0)
		if tag := [32]byte(rec[:32]); end.After(now) {
			if _, ok := s.ends[tag]; !ok {
				s.add(tag, end)
			}
		}
	}
	return whole, nil
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
	if r.size < r.limit {
		return false, nil
	}
	if err := r.compact(); err != nil && r.bad == nil && r.size >= maxReplayFile {
		r.bad = fmt.Errorf("replay cache: %w", err)
	}
	r.limit = min(max(2*r.size, minReplayFile), maxReplayFile)
	return false, r.bad
}

// compact writes the file anew, without what has ended. When that fails, on a
// full disk or in a folder that is not ours to write, the old file goes on
// growing up to its bound.
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
	// without this, a power cut may bring the old file back
	if err := syncDir(filepath.Dir(r.path)); err != nil {
		r.bad = fmt.Errorf("replay cache: %w", err)
	}
	return errors.Join(r.bad, old.Close())
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Close frees the file.
func (r *FileReplay) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.bad == errClosed {
		return nil
	}
	r.bad = errClosed
	// closing alone does not free the lock while this process starts another one,
	// which has our descriptors until it executes its program
	free := unix.Flock_t{Type: unix.F_UNLCK}
	return errors.Join(unix.FcntlFlock(r.f.Fd(), unix.F_OFD_SETLK, &free), r.f.Close())
}
