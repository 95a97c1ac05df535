// A Go service behind grpc-gateway, with pgx, golang-jwt and protovalidate: what a user would build outside Python.
package main

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"buf.build/go/protovalidate"
	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	agentpb "ameide.dev/bench/gen/ameide/agent/v1"
	userpb "ameide.dev/bench/gen/ameide/user/v1"
)

// intercept does for every call what our own layers do: token, permission, validation, a line of log.
func intercept(tokens *tokens) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, request any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		started := time.Now()
		answer, err := func() (any, error) {
			caller, err := tokens.caller(ctx)
			if err != nil {
				return nil, status.Error(codes.Unauthenticated, "A valid credential is required.")
			}
			if isWrite := !strings.Contains(info.FullMethod, "Get") && !strings.Contains(info.FullMethod, "List"); isWrite && !caller.mayWrite {
				return nil, status.Error(codes.PermissionDenied, "The credential does not allow this.")
			}
			if err := protovalidate.Validate(request.(proto.Message)); err != nil {
				return nil, status.Error(codes.InvalidArgument, err.Error())
			}
			return next(context.WithValue(ctx, callerKey{}, caller), request)
		}()
		slog.Info("call", "method", info.FullMethod, "code", status.Code(err).String(), "us", time.Since(started).Microseconds())
		return answer, err
	}
}

// hash returns what tells two requests apart.
func hash(message proto.Message) []byte {
	content, _ := proto.MarshalOptions{Deterministic: true}.Marshal(message)
	sum := sha256.Sum256(content)
	return sum[:]
}

// version returns the number in an etag, or one that no row has.
func version(etag string) int64 {
	number, err := strconv.ParseInt(strings.Trim(etag, `"`), 10, 64)
	if err != nil {
		return 0
	}
	return number
}

// keyOf returns the idempotency key of a call, or nothing.
func keyOf(ctx context.Context) string {
	if values := metadata.ValueFromIncomingContext(ctx, "idempotency-key"); len(values) == 1 {
		return values[0]
	}
	return ""
}

func run(ctx context.Context) error {
	slog.SetDefault(slog.New(slog.NewJSONHandler(os.Stdout, nil)))
	tokens, err := newTokens(os.Getenv("USERS_AUTH_JWKS_PATH"))
	if err != nil {
		return err
	}
	users, err := connect(ctx, "USERS")
	if err != nil {
		return err
	}
	agents, err := connect(ctx, "AGENTS")
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := grpc.NewServer(grpc.UnaryInterceptor(intercept(tokens)))
	userpb.RegisterUserServiceServer(server, &userServer{pool: users})
	agentpb.RegisterAgentServiceServer(server, &agentServer{pool: agents})
	go func() { log.Fatal(server.Serve(listener)) }()

	gateway := runtime.NewServeMux(
		runtime.WithMarshalerOption(runtime.MIMEWildcard, &runtime.JSONPb{
			MarshalOptions: protojson.MarshalOptions{EmitDefaultValues: true},
		}),
		runtime.WithIncomingHeaderMatcher(func(name string) (string, bool) {
			if name == "Idempotency-Key" {
				return "idempotency-key", true
			}
			return runtime.DefaultHeaderMatcher(name)
		}),
	)
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(16 << 20)),
	}
	address := listener.Addr().String()
	if err := userpb.RegisterUserServiceHandlerFromEndpoint(ctx, gateway, address, options); err != nil {
		return err
	}
	if err := agentpb.RegisterAgentServiceHandlerFromEndpoint(ctx, gateway, address, options); err != nil {
		return err
	}
	return http.ListenAndServe("127.0.0.1:"+os.Getenv("PORT"), gateway)
}

func main() {
	if err := run(context.Background()); err != nil {
		encoded, _ := json.Marshal(fmt.Sprint(err))
		log.Fatal(string(encoded))
	}
}
