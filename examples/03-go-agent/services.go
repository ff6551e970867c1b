package main

import (
	"context"

	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/admin"
	"google.golang.org/grpc"
)

// services are what Flyte's engines call. The messages of both generations share their bytes, so one set of methods,
// written with Flyte 1's classes, serves both: only the names differ. What one generation alone has, such as Flyte 2's
// connections, arrives as unknown fields and is ignored.
func services(a *agent) []*grpc.ServiceDesc {
	tasks := []grpc.MethodDesc{
		unary("CreateTask", a.create),
		unary("GetTask", a.get),
		unary("DeleteTask", a.delete),
	}
	return []*grpc.ServiceDesc{
		service("flyteidl.service.AsyncAgentService", tasks),
		service("flyteidl.service.AgentMetadataService", []grpc.MethodDesc{
			unary("ListAgents", a.list),
			unary("GetAgent", a.find),
		}),
		service("flyteidl2.connector.AsyncConnectorService", tasks),
		service("flyteidl2.connector.ConnectorMetadataService", []grpc.MethodDesc{
			unary("ListConnectors", a.list),
			unary("GetConnector", a.find),
		}),
	}
}

func service(name string, methods []grpc.MethodDesc) *grpc.ServiceDesc {
	return &grpc.ServiceDesc{ServiceName: name, HandlerType: (*interface{})(nil), Methods: methods}
}

// unary is what protoc's gRPC plugin would write for one method.
func unary[Request, Response any](name string, call func(context.Context, *Request) (*Response, error)) grpc.MethodDesc {
	handler := func(_ interface{}, ctx context.Context, decode func(interface{}) error, _ grpc.UnaryServerInterceptor) (interface{}, error) {
		request := new(Request)
		if err := decode(request); err != nil {
			return nil, err
		}
		return call(ctx, request)
	}
	return grpc.MethodDesc{MethodName: name, Handler: handler}
}

var announced = &admin.Agent{
	Name:                    "Primes",
	SupportedTaskTypes:      []string{taskType}, // what engines before Flyte 1.11 read
	SupportedTaskCategories: []*admin.TaskCategory{{Name: taskType}},
}
