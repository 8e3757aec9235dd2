package peers

import (
	"path/filepath"
	"strconv"
)

// perl is Net::POP3, which gives lines with LF ends.
func perl(how, door string) client {
	return client{
		name: "Perl Net::POP3 " + how, needs: []string{"perl"}, trial: "perl -MNet::POP3 -MAuthen::SASL -MGSSAPI -MDigest::HMAC_MD5 -e 1", door: door,
		maxLine: anyLine, rare: []string{"NUL", "bare CR", "nothing"}, form: message.unix, names: true, takes: true,
		fetch: func(s *session) (string, []byte) {
			s.t.Helper()
			shown := s.run("perl", testdata("collect.pl"), s.port(), how, s.user, s.password, s.home+"/mail", strconv.FormatBool(s.take))
			return shown, s.read("mail")
		},
	}
}

// python is poplib, which gives lines without their ends.
func python(how, door string) client {
	return client{
		name: "Python poplib " + how, needs: []string{"python3"}, door: door,
		maxLine: anyLine, rare: []string{"NUL", "bare CR", "nothing"}, form: message.wire, names: true, takes: true,
		fetch: func(s *session) (string, []byte) {
			s.t.Helper()
			shown := s.run("python3", testdata("collect.py"), s.port(), how, s.user, s.password, s.ca, s.home+"/mail", strconv.FormatBool(s.take))
			return shown, s.read("mail")
		},
	}
}

func testdata(name string) string {
	path, err := filepath.Abs(filepath.Join("testdata", name))
	if err != nil {
		panic(err) // the work directory is gone
	}
	return path
}
