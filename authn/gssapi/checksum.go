package gssapi

import (
	"crypto/md5" // RFC 4121 section 4.1.1.2 asks for it
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/kpopd/kpopd/authn/krb5"
)

// Context flags of RFC 4121 section 4.1.1.1, and Microsoft's.
const (
	flagDelegate = 0x1
	flagMutual   = 0x2
	flagReplay   = 0x4
	flagSequence = 0x8
	flagConf     = 0x10
	flagInteg    = 0x20
	flagDCE      = 0x1000
)

// gssChecksum is the type of what stands in a checksum's place.
const gssChecksum = 0x8003

// checksum is what a client tells of the context in place of a checksum.
type checksum struct {
	binding [16]byte
	flags   uint32
}

// checksumOf reads the authenticator's.
//
// Deviation: "it MUST have a type of 0x8003" (RFC 4121 section 4.1.1), but two
// other forms are seen, and MIT's library takes them: none at all (clients made
// by hand) asks for nothing; a true checksum, over no data, is what Samba once
// sent and stands for a context with sequence numbers. Neither has a channel
// binding. What a client has sealed nobody on the way can take out.
func checksumOf(kc *krb5.Context) (checksum, error) {
	switch {
	case kc.Checksum == nil:
		return checksum{flags: mutualOf(kc)}, nil
	case kc.Checksum.Type == gssChecksum:
		return parseChecksum(kc.Checksum.Data)
	case !kc.VerifyChecksum(nil):
		return checksum{}, errors.New("checksum is wrong")
	}
	return checksum{flags: flagReplay | flagSequence | mutualOf(kc)}, nil
}

func mutualOf(kc *krb5.Context) uint32 {
	if kc.Mutual {
		return flagMutual
	}
	return 0
}

// parseChecksum reads the fixed part. What follows is a delegated credential
// and extensions, which are of no use here.
func parseChecksum(b []byte) (checksum, error) {
	if len(b) < 24 {
		return checksum{}, fmt.Errorf("GSSAPI checksum of %d octets", len(b))
	}
	if n := binary.LittleEndian.Uint32(b); n != 16 {
		return checksum{}, fmt.Errorf("channel binding of %d octets", n)
	}
	return checksum{binding: [16]byte(b[4:20]), flags: binary.LittleEndian.Uint32(b[20:])}, nil
}

func (s checksum) append(b []byte) []byte {
	b = binary.LittleEndian.AppendUint32(b, 16)
	b = append(b, s.binding[:]...)
	return binary.LittleEndian.AppendUint32(b, s.flags)
}

// bindingHash is the MD5 of a gss_channel_bindings_struct without addresses
// (RFC 4121 section 4.1.1.2) whose data are the tls-server-end-point.
func bindingHash(endPoint []byte) [16]byte {
	const prefix = "tls-server-end-point:"
	b := make([]byte, 16, 20+len(prefix)+len(endPoint)) // two address types and two lengths, all zero
	b = binary.LittleEndian.AppendUint32(b, uint32(len(prefix)+len(endPoint)))
	b = append(b, prefix...)
	b = append(b, endPoint...)
	return md5.Sum(b)
}

// Microsoft's authorization data by which a client says that it always sends
// channel bindings, so that their absence is an attack ([MS-KILE] 3.1.5.8).
const (
	adAPOptions = 143
	optionCBT   = 0x4000
)

func demandsBinding(kc *krb5.Context) bool {
	for _, ad := range kc.AuthData {
		if ad.Type == adAPOptions && len(ad.Data) == 4 && binary.LittleEndian.Uint32(ad.Data)&optionCBT != 0 {
			return true
		}
	}
	return false
}
