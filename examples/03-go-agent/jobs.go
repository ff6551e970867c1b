package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"log"
	"os"
	"path/filepath"
	"sync"
)

// State is what is known of a job.
type State struct {
	Done, Cancelled         bool
	Count, Largest, Reached int64
}

func (s State) over() bool { return s.Done || s.Cancelled }

// Jobs counts primes, each job in a goroutine of its own. How a job ended is in a file, and outlives the process.
type Jobs struct {
	folder string
	mutex  sync.Mutex
	states map[string]State
	stops  map[string]context.CancelFunc
}

// OpenJobs makes the folder if it is not there.
func OpenJobs(folder string) (*Jobs, error) {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return nil, err
	}
	return &Jobs{folder: folder, states: map[string]State{}, stops: map[string]context.CancelFunc{}}, nil
}

// Start begins a job unless it runs or is over, and tells its state.
func (j *Jobs) Start(id string, limit int64) State {
	j.mutex.Lock()
	defer j.mutex.Unlock()
	state, known := j.look(id)
	if !known {
		ctx, stop := context.WithCancel(context.Background())
		j.states[id], j.stops[id] = state, stop
		go j.run(ctx, id, limit)
	}
	return state
}

// Cancel ends a job, also one that only an earlier process knew. One that is over stays as it is.
func (j *Jobs) Cancel(id string) error {
	j.mutex.Lock()
	defer j.mutex.Unlock()
	if state, _ := j.look(id); state.over() {
		return nil
	}
	if err := j.end(id, State{Cancelled: true}); err != nil {
		return err
	}
	return nil
}

func (j *Jobs) run(ctx context.Context, id string, limit int64) {
	state, err := countPrimes(ctx, limit, func(reached State) {
		j.mutex.Lock()
		defer j.mutex.Unlock()
		if !j.states[id].over() {
			j.states[id] = reached
		}
	})
	if err != nil {
		return // cancelled, which Cancel has written down
	}
	j.mutex.Lock()
	defer j.mutex.Unlock()
	if j.states[id].over() {
		return
	}
	if err := j.end(id, state); err != nil {
		log.Printf("job %s: its result cannot be kept: %v", id, err)
		delete(j.states, id) // the next question starts it again
	}
}

// look finds a job in memory or in its file. The caller has locked.
func (j *Jobs) look(id string) (State, bool) {
	if state, known := j.states[id]; known {
		return state, true
	}
	var state State
	data, err := os.ReadFile(j.file(id))
	if err != nil || json.Unmarshal(data, &state) != nil {
		return State{}, false
	}
	j.states[id] = state
	return state, true
}

// end writes down how a job ended, whole or not at all. The caller has locked.
func (j *Jobs) end(id string, state State) error {
	data, err := json.Marshal(state)
	if err != nil {
		return err
	}
	draft := j.file(id) + ".new"
	if err := os.WriteFile(draft, data, 0o644); err != nil {
		return err
	}
	if err := os.Rename(draft, j.file(id)); err != nil {
		return err
	}
	if stop, running := j.stops[id]; running {
		stop()
		delete(j.stops, id)
	}
	j.states[id] = state
	return nil
}

// file is named by a hash, since an id comes from the caller.
func (j *Jobs) file(id string) string {
	sum := sha256.Sum256([]byte(id))
	return filepath.Join(j.folder, hex.EncodeToString(sum[:])+".json")
}

// jobID is the same for every create of one attempt; a create without a prefix is a job of its own.
func jobID(prefix string) string {
	data := []byte(prefix)
	if prefix == "" {
		data = make([]byte, 16)
		if _, err := rand.Read(data); err != nil {
			panic(err)
		}
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:16])
}
