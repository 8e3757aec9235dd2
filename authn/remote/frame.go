package remote

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
)

// version of the protocol. Both sides come from one package and are restarted
// together but for a moment, so others are refused and not translated.
const version = 1

// Octets of the longest frame.
const (
	maxHead    = 256 << 10
	maxPayload = 128<<10 + 1 // one more than the longest AP-REQ that is taken
	prefix     = 8
)

// frame is m and its payload as they travel. Wipe it when it is sent.
func frame(m *message, payload []byte) ([]byte, error) {
	head, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("make a frame: %w", err)
	}
	if len(head) > maxHead || len(payload) > maxPayload {
		return nil, fmt.Errorf("a frame of %d and %d octets is too long", len(head), len(payload))
	}
	b := make([]byte, 0, prefix+len(head)+len(payload))
	b = binary.BigEndian.AppendUint32(b, uint32(len(head)))
	b = binary.BigEndian.AppendUint32(b, uint32(len(payload)))
	return append(append(b, head...), payload...), nil
}

// readFrame reads a frame into memory of its own, without a buffer in between
// that would keep secrets. The payload is the caller's to wipe.
func readFrame(r io.Reader) (*message, []byte, error) {
	var lengths [prefix]byte
	if _, err := io.ReadFull(r, lengths[:]); err != nil {
		return nil, nil, err
	}
	head, payload := binary.BigEndian.Uint32(lengths[:4]), binary.BigEndian.Uint32(lengths[4:])
	if head > maxHead || payload > maxPayload {
		return nil, nil, fmt.Errorf("a frame of %d and %d octets is too long", head, payload)
	}
	b := make([]byte, head+payload)
	if _, err := io.ReadFull(r, b); err != nil {
		clear(b)
		return nil, nil, unexpected(err)
	}
	m := new(message)
	if err := json.Unmarshal(b[:head], m); err != nil {
		clear(b)
		return nil, nil, fmt.Errorf("read a frame: %w", err)
	}
	return m, b[head:], nil
}

func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
