package maildrop

import (
	"strings"
	"unicode/utf8"
)

// FolderParts takes the name of a folder apart, at dots and slashes: "Lists/kpopd"
// is kpopd in Lists. "INBOX" is the inbox, which has no parts, and what all folders
// lie in, as some servers show them: "Sent", "INBOX.Sent" and "INBOX/Sent" are one.
// ok is false when no folder can have the name.
func FolderParts(name string) (parts []string, ok bool) {
	if name == "" {
		return nil, true
	}
	separator := func(r rune) bool { return r == '.' || r == '/' }
	parts = strings.FieldsFunc(name, separator)
	if len(parts) != 1+strings.Count(name, ".")+strings.Count(name, "/") || !utf8.ValidString(name) {
		return nil, false // a part is empty
	}
	if strings.EqualFold(parts[0], "INBOX") {
		parts = parts[1:]
	}
	return parts, true
}
