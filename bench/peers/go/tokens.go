package main

import (
	"context"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"math/big"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"google.golang.org/grpc/metadata"
)

type callerKey struct{}

type caller struct {
	tenant, subject string
	mayWrite        bool
	expires         time.Time
}

type claims struct {
	jwt.RegisteredClaims
	Tenant string   `json:"tenant_id"`
	Roles  []string `json:"roles"`
}

// tokens verifies each token once.
type tokens struct {
	keys    map[string]*rsa.PublicKey
	parser  *jwt.Parser
	callers sync.Map
}

func newTokens(path string) (*tokens, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var set struct {
		Keys []struct{ Kid, N, E string }
	}
	if err := json.Unmarshal(content, &set); err != nil {
		return nil, err
	}
	keys := map[string]*rsa.PublicKey{}
	for _, one := range set.Keys {
		n, err := base64.RawURLEncoding.DecodeString(one.N)
		if err != nil {
			return nil, err
		}
		e, err := base64.RawURLEncoding.DecodeString(one.E)
		if err != nil {
			return nil, err
		}
		keys[one.Kid] = &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(new(big.Int).SetBytes(e).Int64())}
	}
	parser := jwt.NewParser(
		jwt.WithValidMethods([]string{"RS256"}), jwt.WithExpirationRequired(), jwt.WithIssuedAt(),
		jwt.WithIssuer(os.Getenv("USERS_AUTH_ISSUER")), jwt.WithAudience(os.Getenv("USERS_AUTH_AUDIENCE")),
	)
	return &tokens{keys: keys, parser: parser}, nil
}

// caller returns whose token a call carries.
func (t *tokens) caller(ctx context.Context) (*caller, error) {
	values := metadata.ValueFromIncomingContext(ctx, "authorization")
	if len(values) != 1 {
		return nil, errors.New("no token")
	}
	token, isBearer := strings.CutPrefix(values[0], "Bearer ")
	if !isBearer {
		return nil, errors.New("no token")
	}
	digest := sha256.Sum256([]byte(token))
	if known, ok := t.callers.Load(digest); ok && time.Now().Before(known.(*caller).expires) {
		return known.(*caller), nil
	}
	var said claims
	_, err := t.parser.ParseWithClaims(token, &said, func(token *jwt.Token) (any, error) {
		id, _ := token.Header["kid"].(string)
		if key := t.keys[id]; key != nil {
			return key, nil
		}
		return nil, errors.New("no such key")
	})
	if err != nil {
		return nil, err
	}
	verified := &caller{said.Tenant, said.Subject, slices.Contains(said.Roles, "admin"), said.ExpiresAt.Time}
	t.callers.Store(digest, verified)
	return verified, nil
}
