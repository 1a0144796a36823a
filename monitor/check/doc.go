// Package check asks one backend whether it may serve.
//
//	Spec + Target ──▶ Builder ──▶ Checker.Check(ctx) ──▶ Result{Verdict, Index, Detail}
//
// A [Builder] is chosen by name and makes one [Checker] a backend. [HTTP], [TCP]
// and [Exec] need nothing but the standard library; a check that needs a driver
// lives in a package of its own below this one, so that an embedder links only
// what it names.
//
// # What an answer is worth
//
// A backend's own word that it must not serve ([Unhealthy]) counts at once:
// there is nothing to wait for. Everything that may be the network's fault or
// a slow moment's ([Failed]) has to repeat itself before anybody is cut off.
// Which is which:
//
//	check     Healthy                      Unhealthy                 Failed
//	http      200, "healthy": true if      503; "healthy": false;    every other status, a redirect,
//	          the body is JSON             refused on the own port   bad JSON, timeout, reset
//	tcp       connected                    refused on the own port   timeout, reset
//	exec      exit status 0                exit status 1             any other, a signal, timeout
//	redis     master                       replica, sentinel,        not logged in, bad answer,
//	                                       loading                   timeout, reset
//	mysql     read_only and                one of them on,           not logged in, bad answer,
//	          super_read_only off          Galera not ready          bad certificate, timeout
//	galera    synced, Primary, ready,      not so; behind a peer's   no Galera; and as for mysql
//	          writable                     view of the cluster
//	postgres  the wanted role              the other one, starting,  not logged in, bad answer,
//	                                       stopping                  bad certificate, timeout
//
// # Who may call what
//
// A Builder may be called from any goroutine. A Checker belongs to the one
// goroutine that calls Check; only Hint, which a checker calls, is for any
// goroutine. Nothing writes a log: a Result says it all. The galera check's builder
// keeps what its checkers have seen; no other keeps state between two backends.
package check
