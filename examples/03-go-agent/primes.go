package main

import (
	"context"
	"math"
)

const segment = 1 << 16

// countPrimes counts the primes below limit by sieving one segment after the other. It tells how far it is, and ends
// with an error when it is cancelled.
func countPrimes(ctx context.Context, limit int64, tell func(State)) (State, error) {
	state := State{}
	small := smallPrimes(int64(math.Sqrt(float64(limit))) + 1)
	for low := int64(2); low < limit; low += segment {
		if err := ctx.Err(); err != nil {
			return state, err
		}
		high := low + segment
		if high > limit {
			high = limit
		}
		composite := make([]bool, high-low)
		for _, prime := range small {
			first := (low + prime - 1) / prime * prime
			if first < prime*prime {
				first = prime * prime
			}
			for multiple := first; multiple < high; multiple += prime {
				composite[multiple-low] = true
			}
		}
		for offset, isComposite := range composite {
			if !isComposite {
				state.Count++
				state.Largest = low + int64(offset)
			}
		}
		state.Reached = high
		tell(state)
	}
	state.Done = true
	return state, nil
}

func smallPrimes(limit int64) []int64 {
	composite := make([]bool, limit+1)
	var primes []int64
	for number := int64(2); number <= limit; number++ {
		if composite[number] {
			continue
		}
		primes = append(primes, number)
		for multiple := number * number; multiple <= limit; multiple += number {
			composite[multiple] = true
		}
	}
	return primes
}
