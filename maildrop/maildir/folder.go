package maildir

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf16"

	"golang.org/x/sys/unix"

	"github.com/kpopd/kpopd/maildrop"
)

// openFolder opens a Maildir++ folder of the maildrop at path. It is made by who
// puts mail into it, never here.
func (s *Store) openFolder(ctx context.Context, path, folder string) (*drop, error) {
	dir, err := folderDir(folder)
	if err != nil {
		return nil, err
	}
	if dir == "" {
		return s.openAt(ctx, path)
	}
	d, err := s.openAt(ctx, path+"/"+dir)
	if !errors.Is(err, unix.ENOENT) {
		return d, err
	}
	inbox, missing := s.openMaildrop(path)
	if missing != nil {
		return nil, missing // there is no maildrop at all
	}
	unix.Close(inbox)
	return nil, noFolder(folder)
}

func noFolder(folder string) error { return fmt.Errorf("%w: %q", maildrop.ErrNoFolder, folder) }

// folderDir is the directory of a folder in a maildrop, "" for the inbox.
//
// It is one name of a file in any case, and leads to a place in the maildrop and to
// no other: each part of the folder has a dot before it and none inside, and what is
// not ASCII is spelled as IMAP does it.
func folderDir(folder string) (string, error) {
	parts, ok := maildrop.FolderParts(folder)
	var b strings.Builder
	for _, p := range parts {
		b.WriteByte('.')
		ok = appendUTF7(&b, p) && ok
	}
	if !ok || b.Len() > unix.NAME_MAX {
		return "", noFolder(folder)
	}
	return b.String(), nil
}

// appendUTF7 writes name in the modified UTF-7 of RFC 3501 section 5.1.3. It is
// false when the name has a control character.
func appendUTF7(b *strings.Builder, name string) bool {
	plain := func(r rune) bool { return ' ' <= r && r <= '~' }
	for name != "" {
		n := strings.IndexFunc(name, func(r rune) bool { return !plain(r) })
		if n < 0 {
			n = len(name)
		}
		b.WriteString(strings.ReplaceAll(name[:n], "&", "&-"))
		name = name[n:]
		if n = strings.IndexFunc(name, plain); n < 0 {
			n = len(name)
		}
		if strings.ContainsFunc(name[:n], unicode.IsControl) {
			return false
		}
		if n > 0 {
			var units []byte
			for _, u := range utf16.Encode([]rune(name[:n])) {
				units = append(units, byte(u>>8), byte(u))
			}
			b.WriteString("&" + modifiedBase64.EncodeToString(units) + "-")
		}
		name = name[n:]
	}
	return true
}

// modifiedBase64 has a comma where others have the slash.
var modifiedBase64 = base64.NewEncoding("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+,").WithPadding(base64.NoPadding)
