// Package web carries HTTP requests to hosts by their names.
package web
