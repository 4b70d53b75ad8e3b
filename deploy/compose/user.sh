#!/bin/sh
# Give the cluster a user that may do what the service needs and no more: what its API keys can reach, it can reach.
# Runs at each start, as the administrator, and writes the same again. Needs curl.
set -eu
api=${OPENSEARCH_URL:?}/_plugins/_security/api
put() {
    # The password and the body come by files, not by the command line, which others could read.
    status=$(printf '%s' "$2" | curl --silent --show-error --cacert "${OPENSEARCH_CA_FILE:?}" --config "$login" \
        --request PUT --header 'content-type: application/json' --data-binary @- --output /dev/null \
        --write-out '%{http_code}' "$api/$1")
    case $status in
    200 | 201) echo "$1 is there" ;;
    *) echo "$1 was refused with $status" >&2 && exit 1 ;;
    esac
}
login=$(mktemp)
trap 'rm -f "$login"' EXIT
# A quote or a backslash would end the word in curl's file, or in JSON.
case ${OPENSEARCH_ADMIN_PASSWORD:?}${SHELFRANK_CLUSTER_PASSWORD:?} in
*[\"\\]*) echo 'The passwords may hold no " and no \.' >&2 && exit 1 ;;
esac
printf 'user = "admin:%s"\n' "$OPENSEARCH_ADMIN_PASSWORD" >"$login"
# A bulk request is asked for at the cluster, and again for each index that it writes to.
bulk='' behaviour=''
if [ "${SHELFRANK_UBI:-false}" = true ]; then
    bulk=', "indices:data/write/bulk"'
    behaviour=',
    {"index_patterns": ["ubi_queries", "ubi_events"],
     "allowed_actions": ["indices:admin/create", "indices:data/write/index", "indices:data/write/bulk*",
       "indices:admin/mapping/put", "indices:admin/aliases/get"]}'
fi
put roles/shelfrank '{
  "cluster_permissions": ["cluster:monitor/main", "cluster:monitor/health", "cluster:monitor/nodes/info",
    "cluster_composite_ops_ro", "indices:data/read/scroll/clear", "indices:data/read/point_in_time/*"'"$bulk"'],
  "index_permissions": [
    {"index_patterns": ["'"${SHELFRANK_INDEX:?}"'", "'"$SHELFRANK_INDEX"'-2*"],
     "allowed_actions": ["read", "indices:admin/get", "indices:admin/mappings/get", "indices:admin/mappings/fields/get",
       "indices:admin/aliases/get", "indices:admin/resolve/index", "indices:data/read/point_in_time/*",
       "indices:monitor/stats", "indices:monitor/settings/get", "indices:admin/analyze"]}'"$behaviour"'
  ]}'
put internalusers/shelfrank '{"password": "'"$SHELFRANK_CLUSTER_PASSWORD"'", "opendistro_security_roles": ["shelfrank"]}'
