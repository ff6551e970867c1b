// An agent service for Flyte in plain Go: it counts prime numbers.
//
//	agent -port 8000 -state jobs
package main

import (
	"flag"
	"fmt"
	"log"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
)

// Engines send inputs of up to 10 MiB; gRPC's own limit is 4.
const largestRequest = 16 << 20

func main() {
	port := flag.Int("port", 8000, "gRPC port on the loopback address")
	state := flag.String("state", "jobs", "folder in which the results of jobs are kept")
	flag.Parse()

	jobs, err := OpenJobs(*state)
	if err != nil {
		log.Fatalf("state folder: %v", err)
	}
	listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", *port))
	if err != nil {
		log.Fatalf("port: %v", err)
	}
	server := grpc.NewServer(
		grpc.MaxRecvMsgSize(largestRequest),
		// Flyte 2's engine pings every 30 s; without this a server closes the connection as abused.
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
	)
	status := health.NewServer()
	for _, service := range services(&agent{jobs: jobs}) {
		server.RegisterService(service, nil)
		status.SetServingStatus(service.ServiceName, healthpb.HealthCheckResponse_SERVING)
	}
	healthpb.RegisterHealthServer(server, status)

	stopped := make(chan os.Signal, 1)
	signal.Notify(stopped, syscall.SIGTERM, os.Interrupt)
	go func() {
		<-stopped
		status.Shutdown()
		server.GracefulStop()
	}()
	log.Printf("serving %s at %s", taskType, listener.Addr())
	if err := server.Serve(listener); err != nil {
		log.Fatal(err)
	}
}
