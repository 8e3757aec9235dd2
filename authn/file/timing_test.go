package file

import (
	"crypto/tls"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/plain"
)

// refusals measures n refusals of each login in a random order: whatever the
// machine does beside them meets all alike.
func refusals(t *testing.T, v authn.Verifier, n int, logins ...string) [][]float64 {
	t.Helper()
	p := &authn.Policy{Name: "test", Offers: []authn.Mechanism{plain.PLAIN(authn.Chain{{Verifier: v}})}}
	tr := &authn.Transport{TLS: &tls.ConnectionState{}}
	order := make([]int, 0, n*len(logins))
	for i := range logins {
		order = append(order, slices.Repeat([]int{i}, n)...)
	}
	rand.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
	took := make([][]float64, len(logins))
	for _, i := range order {
		l, err := p.Start(t.Context(), tr, "PLAIN")
		if err != nil {
			t.Fatal(err)
		}
		message := []byte("\x00" + logins[i] + "\x00wrong password")
		start := time.Now()
		_, _, err = l.Next(t.Context(), message)
		took[i] = append(took[i], float64(time.Since(start)))
		if err == nil {
			t.Fatalf("%s got in", logins[i])
		}
	}
	return took
}

// apart is the Kolmogorov-Smirnov statistic: the largest difference of the two
// empirical distributions, 0 when they are the same and 1 when they do not
// overlap.
func apart(a, b []float64) (d float64) {
	slices.Sort(a)
	slices.Sort(b)
	for i, j := 0, 0; i < len(a) && j < len(b); {
		x := min(a[i], b[j])
		for i < len(a) && a[i] <= x {
			i++
		}
		for j < len(b) && b[j] <= x {
			j++
		}
		d = max(d, math.Abs(float64(i)/float64(len(a))-float64(j)/float64(len(b))))
	}
	return d
}

// Samples of 1,000 from one distribution are further apart than this once in a
// million: sqrt(-ln(alpha/2)/2) * sqrt(2/n).
const oneInAMillion = 0.1205

// S-21: refusals of known, unknown, locked and password-less users take equal time.
// The test compares distributions that were measured in one mixed run, and
// shows that it would find a verifier that does no work for unknown users.
func TestS21RefusalsTakeEqualTime(t *testing.T) {
	const cheap = "$5$rounds=1000$abcdefgh$l34PgPUzd3uV9PX3NO7KejKwL6ggMZl5Q46yWGMDoBD"
	text := "ticket:*\nlocked:!" + cheap + "\n"
	for i := range 50 {
		text += fmt.Sprintf("user%d:%s\n", i, cheap)
	}
	us, err := parseUsers("u", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	f := &files{name: "f", budget: NewBudget(BudgetOptions{}), users: us}
	logins := []string{"user7", "nobody", "ticket", "locked"}
	// what makes them differ does so each time
	for try := range 3 {
		took := refusals(t, passwords{f}, 1000, logins...)
		worst := 0.0
		for i, login := range logins[1:] {
			d := apart(took[0], took[i+1])
			t.Logf("try %d: %s and %s are %.3f apart", try, logins[0], login, d)
			worst = max(worst, d)
		}
		if worst < oneInAMillion {
			break
		}
		if try == 2 {
			t.Error("the time of a refusal tells who exists")
		}
	}

	us.kinds = nil
	took := refusals(t, passwords{f}, 1000, "user7", "nobody")
	if d := apart(took[0], took[1]); d < 0.5 {
		t.Errorf("a verifier that does nothing for unknown users is %.3f apart: this test finds nothing", d)
	}
}

func TestApart(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		a, b []float64
		want float64
	}{
		{[]float64{1, 2, 3, 4}, []float64{4, 3, 2, 1}, 0},
		{[]float64{1, 1, 1}, []float64{1, 1, 1}, 0},
		{[]float64{1, 2}, []float64{3, 4}, 1},
		{[]float64{1, 2, 3, 4}, []float64{3, 4, 5, 6}, 0.5},
	} {
		if got := apart(tt.a, tt.b); got != tt.want {
			t.Errorf("%v and %v: %v, want %v", tt.a, tt.b, got, tt.want)
		}
	}
}

// In a file of several kinds of hashes logins that nobody has cost the same
// mixture, and each of them the same each time, whatever happens to the file but
// what happens to users too: when shares change, logins change from kinds that
// shrank to kinds that grew, and no more than that takes.
func TestUnknownUsersCostTheMixture(t *testing.T) {
	t.Parallel()
	parse := func(cheap, dear int) *users {
		text := ""
		for i := range cheap {
			text += fmt.Sprintf("cheap%d:%s\n", i, hashSHA5)
		}
		for i := range dear {
			text += fmt.Sprintf("dear%d:%s\n", i, hashP)
		}
		us, err := parseUsers("u", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		return us
	}
	seed := NewBudget(BudgetOptions{}).seed
	dear := func(us *users, login string) bool {
		return us.dummy(seed, login) == us.kinds[1].hash
	}
	const logins = 4000
	before, same, after := parse(10, 30), parse(20, 60), parse(5, 35)
	common, changed := 0, 0
	for i := range logins {
		login := fmt.Sprint("nobody", i)
		was, is := dear(before, login), dear(after, login)
		switch {
		case was != dear(before, login), was != dear(same, login):
			t.Fatalf("%s costs now this and now that", login)
		case was && !is:
			t.Fatalf("%s costs less though dear hashes have become more", login)
		case was:
			common++
		case is:
			changed++
		}
	}
	if common < 2800 || common > 3200 { // 7 standard deviations
		t.Errorf("%d of %d cost what 3 of 4 cost", common, logins)
	}
	if changed < 350 || changed > 650 { // 7 standard deviations
		t.Errorf("%d of %d changed, where 1 of 8 has to", changed, logins)
	}
}
