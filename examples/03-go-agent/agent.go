package main

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/admin"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	taskType     = "count_primes"
	defaultLimit = 100_000
	largestLimit = 1_000_000_000_000
)

// handle is what the engine keeps of a job and sends back with every question: all that is needed to answer, also in
// a process that never saw the job.
type handle struct {
	ID    string `json:"id"`
	Limit int64  `json:"limit"`
}

type agent struct {
	jobs *Jobs
}

// create starts a job. The output prefix names one attempt of one task, so asking again finds the same job: engines
// repeat a create whose answer they lost.
func (a *agent) create(_ context.Context, request *admin.CreateTaskRequest) (*admin.CreateTaskResponse, error) {
	if err := served(request.GetTemplate().GetType(), request.GetTemplate().GetTaskTypeVersion()); err != nil {
		return nil, err
	}
	limit, err := limitIn(request.GetInputs())
	if err != nil {
		return nil, err
	}
	job := handle{ID: jobID(request.GetOutputPrefix()), Limit: limit}
	if limit >= 0 {
		a.jobs.Start(job.ID, limit)
	}
	meta, err := json.Marshal(job)
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	return &admin.CreateTaskResponse{ResourceMeta: meta}, nil
}

// get tells how a job is doing. An error here would count against the job, so every state that can be named is a phase.
func (a *agent) get(_ context.Context, request *admin.GetTaskRequest) (*admin.GetTaskResponse, error) {
	job, err := jobOf(request.GetTaskCategory(), request.GetTaskType(), request.GetResourceMeta())
	if err != nil {
		return nil, err
	}
	if job.Limit < 0 {
		return failed(fmt.Sprintf("there are no numbers below %d to count", job.Limit), "NegativeLimit"), nil
	}
	// A job that this process does not know was cut off by a restart: it goes on from the start.
	state := a.jobs.Start(job.ID, job.Limit)
	resource := &admin.Resource{}
	switch {
	case state.Cancelled:
		resource.Phase = core.TaskExecution_ABORTED
		resource.Message = "cancelled"
	case state.Done:
		resource.Phase = core.TaskExecution_SUCCEEDED
		resource.Outputs = &core.LiteralMap{Literals: map[string]*core.Literal{
			"count":   integer(state.Count),
			"largest": integer(state.Largest),
		}}
	default:
		resource.Phase = core.TaskExecution_RUNNING
		resource.Message = fmt.Sprintf("counted up to %d of %d", state.Reached, job.Limit)
	}
	return &admin.GetTaskResponse{Resource: resource}, nil
}

// delete ends a job. Engines may ask twice, late, and for jobs that are over: all of that is fine.
func (a *agent) delete(_ context.Context, request *admin.DeleteTaskRequest) (*admin.DeleteTaskResponse, error) {
	job, err := jobOf(request.GetTaskCategory(), request.GetTaskType(), request.GetResourceMeta())
	if err != nil {
		return nil, err
	}
	if job.Limit >= 0 {
		if err := a.jobs.Cancel(job.ID); err != nil {
			return nil, status.Error(codes.Unavailable, err.Error())
		}
	}
	return &admin.DeleteTaskResponse{}, nil
}

func (a *agent) list(context.Context, *admin.ListAgentsRequest) (*admin.ListAgentsResponse, error) {
	return &admin.ListAgentsResponse{Agents: []*admin.Agent{announced}}, nil
}

func (a *agent) find(_ context.Context, request *admin.GetAgentRequest) (*admin.GetAgentResponse, error) {
	if request.GetName() != announced.Name {
		return nil, status.Errorf(codes.NotFound, "there is no agent %q", request.GetName())
	}
	return &admin.GetAgentResponse{Agent: announced}, nil
}

func served(name string, version int32) error {
	if name != taskType || version != 0 {
		return status.Errorf(codes.NotFound, "the task type %s, version %d, is not served here", name, version)
	}
	return nil
}

// jobOf is the job that a request is about. Engines before Flyte 1.11 send the old task type only.
func jobOf(category *admin.TaskCategory, oldType string, meta []byte) (*handle, error) {
	name, version := category.GetName(), category.GetVersion()
	if name == "" {
		name, version = oldType, 0
	}
	if err := served(name, version); err != nil {
		return nil, err
	}
	job := &handle{}
	if err := json.Unmarshal(meta, job); err != nil || job.ID == "" {
		return nil, status.Error(codes.InvalidArgument, "these bytes are no job of this service")
	}
	return job, nil
}

func limitIn(inputs *core.LiteralMap) (int64, error) {
	literal, given := inputs.GetLiterals()["limit"]
	if !given {
		return defaultLimit, nil
	}
	number, isInteger := literal.GetScalar().GetPrimitive().GetValue().(*core.Primitive_Integer)
	if !isInteger {
		return 0, status.Error(codes.InvalidArgument, "the input limit is no integer")
	}
	if number.Integer > largestLimit {
		return 0, status.Errorf(codes.InvalidArgument, "the input limit is %d, above %d", number.Integer, largestLimit)
	}
	return number.Integer, nil
}

func failed(message, code string) *admin.GetTaskResponse {
	return &admin.GetTaskResponse{Resource: &admin.Resource{
		Phase:      core.TaskExecution_FAILED,
		Message:    message,
		AgentError: &admin.AgentError{Code: code, Kind: admin.AgentError_NON_RECOVERABLE},
	}}
}

func integer(value int64) *core.Literal {
	primitive := &core.Primitive{Value: &core.Primitive_Integer{Integer: value}}
	return &core.Literal{Value: &core.Literal_Scalar{Scalar: &core.Scalar{
		Value: &core.Scalar_Primitive{Primitive: primitive},
	}}}
}
