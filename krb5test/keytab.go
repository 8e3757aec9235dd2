package krb5test

import (
	"encoding/binary"
	"os"
	"time"
)

// Keytab is a keytab file with all keys of the named principals, old versions
// included.
func (k *KDC) Keytab(names ...string) []byte {
	b := []byte{5, 2}
	for _, name := range names {
		k.change(name, func(p *principal) {
			for i := range p.keys {
				b = appendEntry(b, p, &p.keys[i])
			}
		})
	}
	return b
}

// WriteKeytab writes a keytab file with mode 0600, replacing what is there in
// one step.
func (k *KDC) WriteKeytab(path string, names ...string) error {
	tmp := path + ".new"
	if err := os.WriteFile(tmp, k.Keytab(names...), 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

// appendEntry writes an entry of the second version of the format: integers in
// network order, the version of the key in eight bits and again in 32.
func appendEntry(b []byte, p *principal, k *key) []byte {
	be := binary.BigEndian
	e := be.AppendUint16(nil, uint16(len(p.name.NameString)))
	for _, s := range append([]string{p.realm}, p.name.NameString...) {
		e = append(be.AppendUint16(e, uint16(len(s))), s...)
	}
	e = be.AppendUint32(e, uint32(p.name.NameType))
	e = be.AppendUint32(e, uint32(time.Now().Unix()))
	e = append(e, byte(k.kvno))
	e = be.AppendUint16(e, uint16(k.KeyType))
	e = append(be.AppendUint16(e, uint16(len(k.KeyValue))), k.KeyValue...)
	e = be.AppendUint32(e, uint32(k.kvno))
	return append(be.AppendUint32(b, uint32(len(e))), e...)
}
