package krb5

import (
	"fmt"
	"slices"
	"strings"

	"github.com/jcmturner/gokrb5/v8/types"
)

// name is a principal by its components, which may hold any octet: it is
// compared part by part and never as the joined text.
type name struct {
	components []string
	realm      string
}

func nameOf(n types.PrincipalName, realm string) name { return name{n.NameString, realm} }

func (n name) equal(m name) bool {
	return n.realm == m.realm && slices.Equal(n.components, m.components)
}

// key tells apart what differs in any component.
func (n name) key() string {
	b := fmt.Appendf(nil, "%d:%s", len(n.realm), n.realm)
	for _, c := range n.components {
		b = fmt.Appendf(b, "/%d:%s", len(c), c)
	}
	return string(b)
}

var (
	quoteComponent = strings.NewReplacer(`\`, `\\`, `/`, `\/`, `@`, `\@`, "\x00", `\0`, "\n", `\n`, "\t", `\t`, "\b", `\b`)
	quoteRealm     = strings.NewReplacer(`\`, `\\`, `@`, `\@`, "\x00", `\0`, "\n", `\n`, "\t", `\t`, "\b", `\b`)
)

// String quotes as MIT's krb5_unparse_name does.
func (n name) String() string {
	parts := make([]string, len(n.components))
	for i, c := range n.components {
		parts[i] = quoteComponent.Replace(c)
	}
	return strings.Join(parts, "/") + "@" + quoteRealm.Replace(n.realm)
}
