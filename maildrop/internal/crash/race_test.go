//go:build race

package crash

const race = true
