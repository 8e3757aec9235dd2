package config

import (
	"bytes"
	"encoding"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/go-viper/mapstructure/v2"
	"github.com/spf13/viper"
	"go.yaml.in/yaml/v3"
)

// delimiter joins the keys of nested settings inside viper; the default, a
// dot, would split names.
const delimiter = "::"

// Load reads and validates the configuration in file. The error holds one
// [Problem] for each thing that is wrong. Relative paths in the file are
// relative to its folder.
func Load(file string) (*Config, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	return Parse(file, text)
}

// Parse is Load for the text of a file.
func Parse(file string, text []byte) (*Config, error) {
	c := Default()
	c.file, c.lines = file, map[string]int{}
	var root yaml.Node
	if err := yaml.Unmarshal(text, &root); err != nil {
		return nil, &Problem{File: file, Err: err}
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

// walk notes the line of every key below n and reports keys that t has no
// field for.
func walk(p *problems, n *yaml.Node, t reflect.Type, path string) {
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	switch {
	case n.Tag == "!!null" || isText(t):
	case n.Kind == yaml.SequenceNode && t.Kind() == reflect.Slice:
		for i, e := range n.Content {
			at := fmt.Sprintf("%s[%d]", path, i)
			p.c.lines[at] = e.Line
			walk(p, e, t.Elem(), at)
		}
	case n.Kind == yaml.MappingNode && t.Kind() == reflect.Struct:
		walkKeys(p, n, t, path)
	case t.Kind() == reflect.Struct:
		p.add(path, "must be a set of keys")
	case t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Struct && !isText(t.Elem()):
		p.add(path, "must be a list")
	}
}

// isText reports whether a t is written as one word, though it is a struct.
func isText(t reflect.Type) bool {
	return reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]())
}

func walkKeys(p *problems, n *yaml.Node, t reflect.Type, path string) {
	fields := map[string]reflect.Type{}
	for _, f := range reflect.VisibleFields(t) {
		if key := f.Tag.Get("mapstructure"); key != "" {
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
	v.SetEnvPrefix("kpopd")
	v.AutomaticEnv()
	if err := v.ReadConfig(bytes.NewReader(text)); err != nil {
		return &Problem{File: c.file, Err: err}
	}
	err := v.UnmarshalExact(c, viper.DecodeHook(mapstructure.ComposeDecodeHookFunc(
		durationHook,
		mapstructure.TextUnmarshallerHookFunc(),
		mapstructure.StringToSliceHookFunc(","),
	)))
	return decodeProblems(c, err)
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
			if *p != "" && !filepath.IsAbs(*p) {
				*p = filepath.Join(dir, *p)
			}
		}
	}
	for i := range c.Certificates {
		fix(&c.Certificates[i].Cert, &c.Certificates[i].Key)
	}
	for i := range c.Verifiers {
		fix(&c.Verifiers[i].Users, &c.Verifiers[i].Digests, &c.Verifiers[i].Map)
	}
	fix(&c.Kerberos.Keytab, &c.Maildrops.Root)
	if c.Kerberos.ReplayCache != ReplayMemory {
		fix(&c.Kerberos.ReplayCache)
	}
}
