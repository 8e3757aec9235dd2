package krb5

import (
	"context"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// SetMax bounds a cache for tests of what a full one does.
func (m *MemoryReplay) SetMax(n int) { m.tags.max = n }

// SetMax bounds a cache for tests of what a full one does.
func (r *FileReplay) SetMax(n int) { r.tags.max = n }

// Copy copies the descriptor of the file, as a process that is being started
// does.
func (r *FileReplay) Copy() (int, error) {
	return unix.FcntlInt(r.f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
}

// Layout of the replay file.
const (
	ReplayMagic   = replayMagic
	ReplayRecord  = replayRecord
	MinReplayFile = minReplayFile
)

var AppendReplay = appendReplay

// ReplayTag makes the tag of an authenticator.
func ReplayTag(client []string, clientRealm string, ctime time.Time, cusec int, cipher []byte) [32]byte {
	return replayTag(name{client, clientRealm}, ctime, cusec, cipher)
}

// SetDial has the KDCs dialled by f.
func (p *Passwords) SetDial(f func(ctx context.Context, network, address string) (net.Conn, error)) {
	for _, k := range p.kdcs {
		k.dial = f
	}
}
