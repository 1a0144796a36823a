package table

import (
	"context"
	"errors"
	"time"

	"github.com/redis/go-redis/v9"
)

// errMoving is a change that nobody can make now, and nobody has made.
var errMoving = errors.New("the Redis Cluster is moving the table to another node: try again")

// rumor is about how long the nodes of a Redis Cluster take to tell each other who has
// what.
const rumor = 20 * time.Millisecond

// node is who has the table: the client, or a master of the Redis Cluster. A tag in the
// prefix puts all keys on the same one.
func (r reader) node(ctx context.Context) (redis.Cmdable, error) {
	if cluster, is := r.client.(*redis.ClusterClient); is {
		return cluster.MasterForKey(ctx, r.keys.serial())
	}
	return r.client, nil
}

// lost has a Redis Cluster asked again who has the table. The client does that itself if a
// node sends it on, which one that is dead does not, and else once a minute.
func (r reader) lost(ctx context.Context) {
	if cluster, is := r.client.(*redis.ClusterClient); is {
		cluster.ReloadState(ctx)
	}
}

// script runs a script that writes, at most once. On a Redis Cluster it goes straight to the node:
// the client sends what it got no answer to again, and so would find its own change
// there and call that a conflict.
func (r reader) script(ctx context.Context, script *redis.Script, keys []string, arguments ...any) (*redis.Cmd, error) {
	for {
		node, err := r.node(ctx)
		if err != nil {
			return nil, err
		}
		answer := script.Run(ctx, node, keys, arguments...)
		err = answer.Err()
		cluster, is := r.client.(*redis.ClusterClient)
		switch {
		case err == nil || !is:
			return answer, err
		case redis.HasErrorPrefix(err, "ASK"), redis.HasErrorPrefix(err, "TRYAGAIN"):
			return nil, errMoving
		case !redis.HasErrorPrefix(err, "MOVED"):
			r.lost(ctx)
			return nil, err
		}
		// It was not run. This asks a node who has which keys, and waits for the answer. It
		// may be one that has not heard of it yet.
		if err := cluster.ForEachMaster(ctx, func(context.Context, *redis.Client) error { return nil }); err != nil {
			return nil, err
		}
		again := time.NewTimer(rumor)
		select {
		case <-again.C:
		case <-ctx.Done():
			again.Stop()
			return nil, errMoving
		}
	}
}
