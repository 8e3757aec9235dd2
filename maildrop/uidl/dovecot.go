package uidl

import (
	"bytes"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// UIDListFile is Dovecot's list of messages in a Maildir.
const UIDListFile = "dovecot-uidlist"

// UIDList is what a dovecot-uidlist says.
type UIDList struct {
	UIDValidity uint32
	Entries     map[string]UIDEntry // by base name
}

// UIDEntry is one message of a UIDList.
type UIDEntry struct {
	UID   uint32
	POP3  string // P: the id that was given or saved, "" when there is none
	GUID  string // G: "" when it is the base name
	Order uint32 // O: place among POP3's numbers, 0 when there is none
}

// ParseUIDList reads a dovecot-uidlist of version 1 or 3. A message that has
// two lines has the later one, as Dovecot appends.
func ParseUIDList(r io.Reader) (*UIDList, error) { return parseUIDList(r, nil) }

// parseUIDList reads the lines of some messages.
func parseUIDList(r io.Reader, want bases) (*UIDList, error) {
	l := &UIDList{Entries: make(map[string]UIDEntry)}
	version := ""
	skip := func(line []byte) bool {
		name := []byte(" ")
		if version == "3" {
			name = []byte(" :")
		}
		_, name, ok := bytes.Cut(line, name)
		return ok && want.lacks(name)
	}
	err := scanLines(UIDListFile, r, skip, func(line string, n int) string {
		if n == 1 {
			return l.header(line, &version)
		}
		return l.entry(line, version)
	})
	if err == nil && version == "" {
		err = &LineError{UIDListFile, 1, "no header: the file is empty or cut off"}
	}
	if err != nil {
		return nil, err
	}
	return l, nil
}

func (l *UIDList) header(line string, version *string) (wrong string) {
	fields := strings.Fields(line)
	var validity string
	switch {
	case len(fields) >= 3 && fields[0] == "1": // 1 uidvalidity next
		validity = fields[1]
	case len(fields) >= 2 && fields[0] == "3": // 3 Vuidvalidity Nnext Gguid
		for _, f := range fields[1:] {
			if v, ok := strings.CutPrefix(f, "V"); ok {
				validity = v
			}
		}
	default:
		return "not the header of version 1 or 3"
	}
	v, err := number(validity)
	if err != nil || v == 0 {
		return "no uidvalidity in the header"
	}
	*version, l.UIDValidity = fields[0], v
	return ""
}

// entry reads "uid name" in version 1, "uid Kvalue Kvalue :name" in version 3,
// where K is the letter of what the value is.
func (l *UIDList) entry(line, version string) (wrong string) {
	uid, rest, ok := strings.Cut(line, " ")
	var e UIDEntry
	var err error
	if e.UID, err = number(uid); err != nil || e.UID == 0 || !ok {
		return "does not begin with a uid and a blank"
	}
	for version == "3" && !strings.HasPrefix(rest, ":") {
		var field string
		if field, rest, ok = strings.Cut(rest, " "); !ok || field == "" {
			return "no file name after a colon"
		}
		switch value := field[1:]; field[0] {
		case 'P':
			e.POP3 = value
		case 'G':
			e.GUID = value
		case 'O':
			if e.Order, err = number(value); err != nil {
				return "an order that is no number"
			}
		}
	}
	if version == "3" {
		rest = rest[1:]
	}
	base := baseOf(rest)
	if !plainName(base) {
		return "no file name"
	}
	l.Entries[base] = e
	return ""
}

func number(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	return uint32(n), err
}

// DovecotDefault is Dovecot's default pop3_uidl_format.
const DovecotDefault = "%08Xu%08Xv"

// Template is a pop3_uidl_format of Dovecot, which also tells the ways of
// Cyrus: "%v.%u" by default, "%u" up to 2.1.3 and with uidl_format uidonly,
// "%08Xu%08Xv" with dovecot, "%v-%u" with courier.
type Template struct {
	text  string
	parts []part
}

type part struct {
	literal            string // when variable is 0
	variable, modifier byte
	width              int // zero padded to
}

// long are the names that variables have in Dovecot 2.4 and, in braces, before.
var long = map[string]byte{"uid": 'u', "uidvalidity": 'v', "md5": 'm', "filename": 'f', "guid": 'g'}

// ParseTemplate takes %u, %v, %m, %f and %g, "%%", with "0" and a width for
// leading zeros, X for hexadecimal, M for the MD5 of the value; and Dovecot
// 2.4's "%{uid | hex(8)}".
func ParseTemplate(s string) (*Template, error) {
	t := &Template{text: s}
	rest := s
	for rest != "" {
		literal, after, found := strings.Cut(rest, "%")
		if literal != "" {
			t.parts = append(t.parts, part{literal: literal})
		}
		if !found {
			break
		}
		p, n, err := parseVariable(after)
		if err != nil {
			return nil, fmt.Errorf("pop3_uidl_format %q: %w", s, err)
		}
		t.parts = append(t.parts, p)
		rest = after[n:]
	}
	if !t.uses("umfg") {
		return nil, fmt.Errorf("pop3_uidl_format %q has none of %%u, %%m, %%f and %%g: ids would be the same", s)
	}
	return t, nil
}

var errVariable = errors.New("not one of %u %v %m %f %g, with 0 and a width, X or M, nor %{uid | hex(8)}")

// parseVariable reads what follows a percent sign, n octets.
func parseVariable(s string) (p part, n int, err error) {
	if strings.HasPrefix(s, "{") {
		return parseBraces(s)
	}
	if strings.HasPrefix(s, "%") {
		return part{literal: "%"}, 1, nil
	}
	for n < len(s) && s[n]-'0' <= 9 {
		n++
	}
	if n > 0 {
		if p.width, err = strconv.Atoi(s[:n]); err != nil || s[0] != '0' || p.width > 64 {
			return p, 0, errVariable
		}
	}
	if n < len(s) && (s[n] == 'X' || s[n] == 'M') {
		p.modifier = s[n]
		n++
	}
	if n == len(s) || !strings.ContainsRune("uvmfg", rune(s[n])) || p.impossible(s[n]) {
		return p, 0, errVariable
	}
	p.variable = s[n]
	return p, n + 1, nil
}

// impossible says that a variable is no number where one is needed.
func (p *part) impossible(variable byte) bool {
	number := variable == 'u' || variable == 'v'
	return !number && (p.width > 0 || p.modifier == 'X') || p.modifier == 'M' && p.width > 0
}

func parseBraces(s string) (p part, n int, err error) {
	inner, _, ok := strings.Cut(s[1:], "}")
	name, filter, _ := strings.Cut(inner, "|")
	p.variable = long[strings.TrimSpace(name)]
	switch filter = strings.TrimSpace(filter); {
	case filter == "":
	case filter == "hex":
		p.modifier = 'X'
	case filter == "md5 | hexlify" || filter == "md5|hexlify":
		p.modifier = 'M'
	case strings.HasPrefix(filter, "hex(") && strings.HasSuffix(filter, ")"):
		p.modifier = 'X'
		p.width, err = strconv.Atoi(filter[len("hex(") : len(filter)-1])
		ok = ok && err == nil && p.width > 0 && p.width <= 64
	default:
		ok = false
	}
	if !ok || p.variable == 0 || p.impossible(p.variable) {
		return p, 0, errVariable
	}
	return p, len(inner) + 2, nil
}

func (t *Template) uses(variables string) bool {
	for _, p := range t.parts {
		if p.variable != 0 && strings.IndexByte(variables, p.variable) >= 0 {
			return true
		}
	}
	return false
}

// Values is what the variables of a Template stand for.
type Values struct {
	UID, UIDValidity    uint32
	MD5, FileName, GUID string
}

// ID fills the template in; "" when a variable that it has is not known.
func (t *Template) ID(v Values) string {
	var b strings.Builder
	for _, p := range t.parts {
		if p.variable == 0 {
			b.WriteString(p.literal)
			continue
		}
		s := p.value(v)
		if s == "" {
			return ""
		}
		b.WriteString(s)
	}
	return b.String()
}

func (p *part) value(v Values) string {
	var s string
	switch p.variable {
	case 'u':
		s = p.numeral(v.UID)
	case 'v':
		s = p.numeral(v.UIDValidity)
	case 'm':
		s = v.MD5
	case 'f':
		s = v.FileName
	case 'g':
		s = v.GUID
	}
	if p.modifier == 'M' && s != "" {
		sum := md5.Sum([]byte(s))
		return hex.EncodeToString(sum[:])
	}
	return s
}

func (p *part) numeral(n uint32) string {
	if n == 0 {
		return "" // no message and no mailbox has that number
	}
	base := 10
	if p.modifier == 'X' {
		base = 16
	}
	s := strconv.FormatUint(uint64(n), base)
	if p.width > len(s) {
		s = strings.Repeat("0", p.width-len(s)) + s
	}
	return s
}

// open is the scheme of Dovecot with this format.
func (t *Template) open(from Source) (Rule, error) {
	if from.Open == nil {
		return t.mbox(from.First), nil
	}
	f, err := from.file(UIDListFile)
	if err != nil || f == nil {
		return nothing, err
	}
	defer f.Close()
	list, err := parseUIDList(f, basesOf(from.Bases))
	if err != nil {
		return nil, err
	}
	return t.maildir(list), nil
}

// maildir names what is in the list. "P" wins over the format, as in Dovecot.
func (t *Template) maildir(list *UIDList) Rule {
	return func(m Message) string {
		e, ok := list.Entries[m.Base]
		switch {
		case !ok:
			return ""
		case e.POP3 != "":
			return e.POP3
		}
		v := Values{UID: e.UID, UIDValidity: list.UIDValidity, FileName: m.Base, GUID: e.GUID}
		if v.GUID == "" {
			v.GUID = m.Base
		}
		return t.ID(v)
	}
}

// mbox takes numbers from the headers X-IMAPbase and X-UID, which Dovecot
// writes into the file as UW does. A GUID is the MD5 there.
func (t *Template) mbox(first []byte) Rule {
	validity := imapBase(first)
	return func(m Message) string {
		sum := apop3d(m.Head)
		return t.ID(Values{UID: xUID(m.Head), UIDValidity: validity, MD5: sum, GUID: sum})
	}
}
