package krb5

// SetMax bounds a cache for tests of what a full one does.
func (m *MemoryReplay) SetMax(n int) { m.tags.max = n }

// SetMax bounds a cache for tests of what a full one does.
func (r *FileReplay) SetMax(n int) { r.tags.max = n }

// Layout of the replay file.
const (
	ReplayMagic   = replayMagic
	ReplayRecord  = replayRecord
	MinReplayFile = minReplayFile
)

var AppendReplay = appendReplay
