package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	agentpb "ameide.dev/bench/gen/ameide/agent/v1"
	userpb "ameide.dev/bench/gen/ameide/user/v1"
)

const (
	columns = "id::text, tenant_id, display_name, labels, state, create_time, update_time, delete_time, created_by, version"
	user    = columns + ", email, roles"
	get     = "SELECT " + user + " FROM users WHERE tenant_id = $1 AND id = $2"
	batch   = "SELECT " + user + " FROM users WHERE tenant_id = $1 AND id = ANY($2::uuid[])"
	page    = "SELECT " + user + " FROM users WHERE tenant_id = $1 AND delete_time IS NULL" +
		" ORDER BY create_time DESC, id DESC LIMIT $2"
	create = "INSERT INTO users (tenant_id, id, display_name, labels, state, created_by, email, roles)" +
		" VALUES ($1, $2, $3, $4, 'ACTIVE', $5, $6, $7) RETURNING " + user
	createKey = "INSERT INTO idempotency_keys VALUES ($1, $2, 'create', $3, $4, $5, $6)"
	change    = "UPDATE users SET display_name = $4, version = version + 1, update_time = now()" +
		" WHERE tenant_id = $1 AND id = $2 AND version = $3 AND delete_time IS NULL RETURNING " + user
	getAgent = "SELECT " + columns + ", description, model, instructions, tools, parameters FROM agents" +
		" WHERE tenant_id = $1 AND id = $2"
)

type userServer struct {
	userpb.UnimplementedUserServiceServer
	pool *pgxpool.Pool
}

type agentServer struct {
	agentpb.UnimplementedAgentServiceServer
	pool *pgxpool.Pool
}

func connect(ctx context.Context, database string) (*pgxpool.Pool, error) {
	config, err := pgxpool.ParseConfig(os.Getenv(database+"_ADMIN_URL") + "&pool_max_conns=" + os.Getenv(database+"_POOL"))
	if err != nil {
		return nil, err
	}
	return pgxpool.NewWithConfig(ctx, config)
}

func callerOf(ctx context.Context) *caller { return ctx.Value(callerKey{}).(*caller) }

func scanUser(row pgx.Row) (*userpb.User, error) {
	var one userpb.User
	var state string
	var created, updated time.Time
	var deleted *time.Time
	var number int64
	err := row.Scan(&one.Id, &one.TenantId, &one.DisplayName, &one.Labels, &state, &created, &updated, &deleted,
		&one.CreatedBy, &number, &one.Email, &one.Roles)
	if err != nil {
		return nil, translated(err)
	}
	one.State, one.Etag = userpb.User_State(userpb.User_State_value[state]), fmt.Sprintf("%q", fmt.Sprint(number))
	one.CreateTime, one.UpdateTime = timestamppb.New(created), timestamppb.New(updated)
	if deleted != nil {
		one.DeleteTime = timestamppb.New(*deleted)
	}
	return &one, nil
}

func collect(rows pgx.Rows, err error) ([]*userpb.User, error) {
	if err != nil {
		return nil, translated(err)
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (*userpb.User, error) { return scanUser(row) })
}

func translated(err error) error {
	var refused *pgconn.PgError
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return status.Error(codes.NotFound, "There is none with this id.")
	case errors.As(err, &refused) && refused.Code == "23505":
		return status.Error(codes.AlreadyExists, "A live user has this e-mail address.")
	}
	return status.Error(codes.Internal, "Something went wrong on our side.")
}

func (s *userServer) GetUser(ctx context.Context, request *userpb.GetUserRequest) (*userpb.User, error) {
	return scanUser(s.pool.QueryRow(ctx, get, callerOf(ctx).tenant, request.Id))
}

func (s *userServer) BatchGetUsers(
	ctx context.Context, request *userpb.BatchGetUsersRequest,
) (*userpb.BatchGetUsersResponse, error) {
	found, err := collect(s.pool.Query(ctx, batch, callerOf(ctx).tenant, request.Ids))
	if err != nil {
		return nil, err
	}
	known := map[string]*userpb.User{}
	for _, one := range found {
		known[one.Id] = one
	}
	answer := &userpb.BatchGetUsersResponse{}
	for _, id := range request.Ids {
		if known[id] == nil {
			return nil, status.Error(codes.NotFound, "There is none with one of these ids.")
		}
		answer.Users = append(answer.Users, known[id])
	}
	return answer, nil
}

// ListUsers answers the first page, which is what the benchmark asks for.
func (s *userServer) ListUsers(
	ctx context.Context, request *userpb.ListUsersRequest,
) (*userpb.ListUsersResponse, error) {
	size := int(request.PageSize)
	found, err := collect(s.pool.Query(ctx, page, callerOf(ctx).tenant, size+1))
	if err != nil || len(found) <= size {
		return &userpb.ListUsersResponse{Users: found}, err
	}
	last := found[size-1]
	token := last.CreateTime.AsTime().Format(time.RFC3339Nano) + " " + last.Id
	return &userpb.ListUsersResponse{Users: found[:size], NextPageToken: token}, nil
}

func (s *userServer) CreateUser(ctx context.Context, request *userpb.CreateUserRequest) (*userpb.User, error) {
	caller, wanted, key := callerOf(ctx), request.User, keyOf(ctx)
	labels := wanted.Labels
	if labels == nil {
		labels = map[string]string{}
	}
	own := []any{caller.tenant, uuid.Must(uuid.NewV7()), wanted.DisplayName, labels, caller.subject, wanted.Email,
		append([]string{}, wanted.Roles...)}
	if key == "" {
		return scanUser(s.pool.QueryRow(ctx, create, own...))
	}
	var created *userpb.User
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) (err error) {
		if created, err = scanUser(tx.QueryRow(ctx, create, own...)); err != nil {
			return err
		}
		response, err := proto.Marshal(created)
		if err != nil {
			return err
		}
		expires := time.Now().Add(24 * time.Hour)
		_, err = tx.Exec(ctx, createKey, caller.tenant, caller.subject, key, hash(request), response, expires)
		return err
	})
	if status.Code(err) == codes.AlreadyExists || err == nil {
		return created, err
	}
	return nil, translated(err)
}

func (s *userServer) UpdateUser(ctx context.Context, request *userpb.UpdateUserRequest) (*userpb.User, error) {
	wanted := request.User
	return scanUser(s.pool.QueryRow(
		ctx, change, callerOf(ctx).tenant, wanted.Id, version(wanted.Etag), wanted.DisplayName))
}

func (s *agentServer) GetAgent(ctx context.Context, request *agentpb.GetAgentRequest) (*agentpb.Agent, error) {
	var one agentpb.Agent
	var state string
	var created, updated time.Time
	var deleted *time.Time
	var number int64
	var parameters map[string]any
	var tools []struct {
		Name, Description string
		InputSchema       map[string]any `json:"input_schema"`
	}
	row := s.pool.QueryRow(ctx, getAgent, callerOf(ctx).tenant, request.Id)
	err := row.Scan(&one.Id, &one.TenantId, &one.DisplayName, &one.Labels, &state, &created, &updated, &deleted,
		&one.CreatedBy, &number, &one.Description, &one.Model, &one.Instructions, &tools, &parameters)
	if err != nil {
		return nil, translated(err)
	}
	for _, tool := range tools {
		schema, err := structpb.NewStruct(tool.InputSchema)
		if err != nil {
			return nil, err
		}
		one.Tools = append(one.Tools, &agentpb.Tool{
			Name: tool.Name, Description: tool.Description, InputSchema: schema,
		})
	}
	if parameters != nil {
		if one.Parameters, err = structpb.NewStruct(parameters); err != nil {
			return nil, err
		}
	}
	one.State, one.Etag = agentpb.Agent_State(agentpb.Agent_State_value[state]), fmt.Sprintf("%q", fmt.Sprint(number))
	one.CreateTime, one.UpdateTime = timestamppb.New(created), timestamppb.New(updated)
	if deleted != nil {
		one.DeleteTime = timestamppb.New(*deleted)
	}
	return &one, nil
}
