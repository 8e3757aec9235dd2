package config

import (
	"bytes"
	"encoding"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-viper/mapstructure/v2"
	"github.com/spf13/viper"
	"go.yaml.in/yaml/v3"

	"github.com/kpopd/kpopd/authn/oidc"
	"github.com/kpopd/kpopd/authn/sitefile"
)

// maxConfig is the size of the largest configuration, in octets.
const maxConfig = 1 << 20

// delimiter joins the keys of nested settings inside viper; the default, a
// dot, would split names.
const delimiter = "::"

// squash is the tag of a struct whose keys stand among those of the one around it.
const squash = ",squash"

// Load reads and validates the configuration in file. The error holds one
// [Problem] for each thing that is wrong. Relative paths in the file are
// relative to its folder.
func Load(file string) (*Config, error) {
	text, err := sitefile.Read(file, maxConfig, sitefile.WorldWritable)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	return Parse(file, text)
}

// Parse is Load for the text of a file.
func Parse(file string, text []byte) (*Config, error) {
	c := Default()
	c.file, c.lines = file, map[string]int{}
	root, err := document(file, text)
	if err != nil {
		return nil, err
	}
	p := &problems{c: &c}
	if len(root.Content) > 0 {
		walk(p, root.Content[0], reflect.TypeFor[Config](), "")
	}
	if len(p.list) > 0 {
		return nil, p.err()
	}
	if err := decode(&c, text); err != nil {
		return nil, err
	}
	c.resolve()
	if err := c.validate(); err != nil {
		return nil, err
	}
	return &c, nil
}

// document is the one document of a file. What stands after a second "---"
// would be read by nobody.
func document(file string, text []byte) (*yaml.Node, error) {
	var root, second yaml.Node
	d := yaml.NewDecoder(bytes.NewReader(text))
	err := d.Decode(&root)
	if err == nil {
		if err = d.Decode(&second); err == nil {
			return nil, &Problem{File: file, Line: second.Line, Err: errors.New("a second document begins here; one is read: remove the line ---")}
		}
	}
	if errors.Is(err, io.EOF) {
		return &root, nil
	}
	at := &Problem{File: file, Err: err}
	if m := yamlError.FindStringSubmatch(err.Error()); m != nil {
		at.Line, _ = strconv.Atoi(m[1])
		at.Err = fmt.Errorf("no YAML, here or just above: %s", m[2])
	}
	return nil, at
}

// yamlError is how the parser says a line.
var yamlError = regexp.MustCompile(`^yaml: line ([0-9]+): (.*)`)

// walk notes the line of every key below n, and reports keys that t has no
// field for and values that are no t. The loader's own decoder would make do
// with them: of -1 it makes a user id, of true the number 1.
func walk(p *problems, n *yaml.Node, t reflect.Type, path string) {
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	switch {
	case n.Tag == "!!null" && t.Kind() == reflect.Struct && !isText(t) && !strings.HasSuffix(path, "]"):
		// a section whose keys are all commented out
	case n.Tag == "!!null":
		p.add(path, "has no value; give it one or remove it")
	case n.Kind == yaml.SequenceNode && t.Kind() == reflect.Slice:
		for i, e := range n.Content {
			at := fmt.Sprintf("%s[%d]", path, i)
			p.c.lines[at] = e.Line
			walk(p, e, t.Elem(), at)
		}
	case n.Kind == yaml.MappingNode && t.Kind() == reflect.Struct && !isText(t):
		walkKeys(p, n, t, path)
	case t.Kind() == reflect.Struct && !isText(t):
		p.add(path, "must be a set of keys")
	case t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Struct && !isText(t.Elem()):
		p.add(path, "must be a list; begin each element with a dash")
	case t.Kind() == reflect.Slice:
		p.add(path, "must be a list; put it in brackets: [a, b]")
	case n.Kind != yaml.ScalarNode:
		p.add(path, "must be one value, not a list or a set of keys")
	default:
		scalar(p, n, t, path)
	}
}

// scalar wants one value to be a t.
func scalar(p *problems, n *yaml.Node, t reflect.Type, path string) {
	switch kind := t.Kind(); {
	case t == reflect.TypeFor[time.Duration](), isText(t):
		// a hook of decode reads it
	case kind == reflect.String && n.ShortTag() != "!!str":
		p.add(path, "%s is not text as YAML reads it; put it in quotes", n.Value)
	case kind == reflect.Bool && n.ShortTag() != "!!bool":
		p.add(path, "%q is neither true nor false; write one of them", n.Value)
	case kind == reflect.Int && (n.ShortTag() != "!!int" || n.Decode(new(int)) != nil):
		p.add(path, "%q is no whole number; write one, without quotes", n.Value)
	case kind == reflect.Uint32 && (n.ShortTag() != "!!int" || n.Decode(new(uint32)) != nil):
		p.add(path, "%q is no id; write a whole number from 0 to %d, without quotes", n.Value, uint32(math.MaxUint32))
	}
}

// isText reports whether a t is written as one word, though it is a struct.
func isText(t reflect.Type) bool {
	return reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]())
}

func walkKeys(p *problems, n *yaml.Node, t reflect.Type, path string) {
	fields := map[string]reflect.Type{}
	for _, f := range reflect.VisibleFields(t) {
		if key := f.Tag.Get("mapstructure"); key != "" && key != squash {
			fields[key] = f.Type
		}
	}
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, line := n.Content[i].Value, n.Content[i].Line
		at := strings.TrimPrefix(path+"."+key, ".")
		first := seen[key]
		seen[key], p.c.lines[at] = line, line
		switch field, known := fields[key]; {
		case !known:
			p.add(at, "unknown key%s", suggest(key, slices.Sorted(maps.Keys(fields))))
		case first > 0:
			p.add(at, "the key is already set in line %d", first)
		default:
			walk(p, n.Content[i+1], field, at)
		}
	}
}

// decode fills c from text and the environment through an own instance of
// viper, strictly.
func decode(c *Config, text []byte) error {
	v := viper.NewWithOptions(
		viper.KeyDelimiter(delimiter),
		viper.ExperimentalBindStruct(),
		viper.EnvKeyReplacer(strings.NewReplacer(delimiter, "_")),
	)
	v.SetConfigType("yaml")
	v.SetEnvPrefix(envPrefix)
	v.AutomaticEnv()
	if err := v.ReadConfig(bytes.NewReader(text)); err != nil {
		return &Problem{File: c.file, Err: err}
	}
	err := v.UnmarshalExact(c, viper.DecodeHook(mapstructure.ComposeDecodeHookFunc(
		durationHook,
		prefixHook,
		mapstructure.StringToSliceHookFunc(","),
	)))
	return decodeProblems(c, err)
}

const envPrefix = "KPOPD"

// envName is the variable that overrides a key.
func envName(key string) string {
	return envPrefix + "_" + strings.ToUpper(strings.ReplaceAll(key, ".", "_"))
}

// durationHook wants a unit: a bare number would be nanoseconds.
func durationHook(_, to reflect.Type, data any) (any, error) {
	if to != reflect.TypeFor[time.Duration]() || reflect.TypeOf(data) == to {
		return data, nil
	}
	s := fmt.Sprint(data)
	d, err := time.ParseDuration(s)
	if err != nil {
		return nil, fmt.Errorf("%q is no duration; write a number with a unit: 90s, 10m, 1h30m", s)
	}
	return d, nil
}

// prefixHook wants a network by its first address: 10.1.2.3/8 may be meant as
// one machine, and would trust sixteen million.
func prefixHook(_, to reflect.Type, data any) (any, error) {
	if to != reflect.TypeFor[netip.Prefix]() || reflect.TypeOf(data) == to {
		return data, nil
	}
	s := fmt.Sprint(data)
	n, err := netip.ParsePrefix(s)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%q is no network; write it as 10.0.0.0/8, 192.0.2.7/32 or 2001:db8::/32", s)
	case n.Addr().Is4In6():
		return nil, fmt.Errorf("%q is an IPv4 network in the clothes of IPv6; write it as 10.0.0.0/8", s)
	case n != n.Masked():
		return nil, fmt.Errorf("%q begins inside the network; write %v, or %v for that address alone", s, n.Masked(), netip.PrefixFrom(n.Addr(), n.Addr().BitLen()))
	}
	return n, nil
}

// decodeProblems turns the decoder's tree of errors into problems.
func decodeProblems(c *Config, err error) error {
	if err == nil {
		return nil
	}
	p := &problems{c: c}
	var visit func(error)
	visit = func(err error) {
		if list, ok := err.(interface{ Unwrap() []error }); ok {
			for _, e := range list.Unwrap() {
				visit(e)
			}
			return
		}
		var d *mapstructure.DecodeError
		switch inner := errors.Unwrap(err); {
		case errors.As(err, &d):
			if env := envName(d.Name()); os.Getenv(env) != "" {
				p.list = append(p.list, &Problem{File: env + " in the environment", Err: d.Unwrap()})
				return
			}
			p.add(d.Name(), "%w", d.Unwrap())
		case inner != nil:
			visit(inner)
		default:
			p.add("", "%w", err)
		}
	}
	visit(err)
	return p.err()
}

// resolve makes paths absolute as seen from the file's folder.
func (c *Config) resolve() {
	dir := filepath.Dir(c.file)
	fix := func(paths ...*string) {
		for _, p := range paths {
			if *p != "" && !filepath.IsAbs(*p) && !strings.HasPrefix(*p, Credential) {
				*p = filepath.Join(dir, *p)
			}
		}
	}
	for i := range c.Listeners {
		fix(&c.Listeners[i].ClientCA, &c.Listeners[i].ClientCRL)
	}
	for i := range c.Certificates {
		fix(&c.Certificates[i].Cert, &c.Certificates[i].Key)
	}
	for i := range c.Verifiers {
		v := &c.Verifiers[i]
		fix(&v.Users, &v.Digests, &v.DigestsKey, &v.Map, &v.List, &v.CA, &v.Cert, &v.Key, &v.BindPassword, &v.BindKeytab, &v.BindKrb5Conf, &v.KeyCache, &v.ClientSecret, &v.Socket)
		if !oidc.IsURL(v.Keys) {
			fix(&v.Keys)
		}
	}
	fix(&c.Kerberos.Keytab, &c.SCRAM.SaltKey, &c.Maildrops.Root, &c.Maildrops.State, &c.Auth.Socket)
	if c.Kerberos.ReplayCache != ReplayMemory {
		fix(&c.Kerberos.ReplayCache)
	}
}
