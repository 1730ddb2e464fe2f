{{/* What does not fit together; each template of a workload includes it. */}}
{{- define "gateway.validate" -}}
{{- include "gateway.validate.names" . -}}
{{- include "gateway.validate.pods" . -}}
{{- include "gateway.validate.network" . -}}
{{- include "gateway.validate.variables" . -}}
{{- end -}}

{{- define "gateway.validate.names" -}}
{{- $name := include "gateway.fullname" . -}}
{{- if regexMatch "^[0-9]" $name -}}
{{- fail (printf "the name %s begins with a digit, which no Service may: set fullnameOverride" $name) -}}
{{- end -}}
{{- $taken := list "config" "temporary" "secrets" "tls" -}}
{{- range .Values.extraVolumes -}}
{{- if has .name $taken -}}
{{- fail (printf "extraVolumes has the name %s, which is taken: choose another" .name) -}}
{{- end -}}
{{- $taken = append $taken .name -}}
{{- end -}}
{{- $paths := list "/etc/gateway" "/tmp" "/run/secrets/gateway" "/run/secrets/tls" -}}
{{- range .Values.extraVolumeMounts -}}
{{- $path := trimSuffix "/" .mountPath -}}
{{- if has $path $paths -}}
{{- fail (printf "extraVolumeMounts has the path %s, where something is mounted already: choose another" $path) -}}
{{- end -}}
{{- if not (has .name $taken) -}}
{{- fail (printf "extraVolumeMounts mounts %s, which is not in extraVolumes" .name) -}}
{{- end -}}
{{- $paths = append $paths $path -}}
{{- end -}}
{{- $containers := list "gateway" -}}
{{- range .Values.extraContainers -}}
{{- if has .name $containers -}}
{{- fail (printf "extraContainers has the name %s, which is taken: choose another" .name) -}}
{{- end -}}
{{- $containers = append $containers .name -}}
{{- end -}}
{{- end -}}

{{- define "gateway.validate.pods" -}}
{{- $budget := .Values.podDisruptionBudget -}}
{{- $fewest := int (include "gateway.fewest" .) -}}
{{- $scale := .Values.autoscaling -}}
{{- if $scale.enabled -}}
{{- if gt (int $scale.minReplicas) (int $scale.maxReplicas) -}}
{{- fail (printf "autoscaling.minReplicas (%d) is more than autoscaling.maxReplicas (%d)" (int $scale.minReplicas) (int $scale.maxReplicas)) -}}
{{- end -}}
{{- if not (or $scale.targetCPUUtilizationPercentage $scale.targetMemoryUtilizationPercentage $scale.metrics) -}}
{{- fail "autoscaling has nothing to go by: set targetCPUUtilizationPercentage, targetMemoryUtilizationPercentage or metrics" -}}
{{- end -}}
{{- range $resource, $target := dict "cpu" $scale.targetCPUUtilizationPercentage "memory" $scale.targetMemoryUtilizationPercentage -}}
{{- $resources := $.Values.resources -}}
{{- if and $target (not (or (get ($resources.requests | default dict) $resource) (get ($resources.limits | default dict) $resource))) -}}
{{- fail (printf "autoscaling goes by the share of the requested %s, and none is requested: set resources.requests.%s" $resource $resource) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if $budget.enabled -}}
{{- if and (not (kindIs "invalid" $budget.minAvailable)) (not (kindIs "invalid" $budget.maxUnavailable)) -}}
{{- fail "podDisruptionBudget has both minAvailable and maxUnavailable: Kubernetes takes only one" -}}
{{- end -}}
{{- if not (kindIs "invalid" $budget.minAvailable) -}}
{{- $given := toString $budget.minAvailable -}}
{{- $held := int $budget.minAvailable -}}
{{/* Kubernetes rounds a share of the pods up. */}}
{{- if hasSuffix "%" $given -}}{{- $held = div (add (mul (trimSuffix "%" $given | int) $fewest) 99) 100 | int -}}{{- end -}}
{{- if and (gt $held 0) (ge $held $fewest) -}}
{{- fail (printf "podDisruptionBudget.minAvailable is %s and there may be %d pods: no node could ever be drained. Lower it, or raise the number of pods." $given $fewest) -}}
{{- end -}}
{{- end -}}
{{- if and (not (kindIs "invalid" $budget.maxUnavailable)) (has (toString $budget.maxUnavailable) (list "0" "0%")) -}}
{{- fail "podDisruptionBudget.maxUnavailable is 0: no node could ever be drained" -}}
{{- end -}}
{{- end -}}
{{- if and (has (toString .Values.deployment.maxSurge) (list "0" "0%")) (has (toString .Values.deployment.maxUnavailable) (list "0" "0%")) -}}
{{- fail "deployment.maxSurge and deployment.maxUnavailable are both 0: no pod could ever be replaced" -}}
{{- end -}}
{{- end -}}

{{- define "gateway.validate.network" -}}
{{- $service := .Values.service -}}
{{- $ports := dict (toString .Values.ports.http) "http" -}}
{{- $used := list "admin" -}}
{{- if .Values.decision.enabled -}}{{- $used = append $used "decision" -}}{{- end -}}
{{- if .Values.decision.grpc -}}{{- $used = append $used "grpc" -}}{{- end -}}
{{- range $used -}}
{{- $port := get $.Values.ports . | toString -}}
{{- if hasKey $ports $port -}}
{{- fail (printf "ports.%s and ports.%s are both %s" (get $ports $port) . $port) -}}
{{- end -}}
{{- $_ := set $ports $port . -}}
{{- end -}}
{{- if and .Values.decision.grpc (not .Values.decision.enabled) -}}
{{- fail "decision.grpc needs decision.enabled" -}}
{{- end -}}
{{- if ne $service.type "LoadBalancer" -}}
{{- range list "loadBalancerClass" "loadBalancerSourceRanges" -}}
{{- if get $service . -}}
{{- fail (printf "service.%s needs service.type LoadBalancer: Kubernetes refuses it with %s" . $service.type) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and $service.externalTrafficPolicy (eq $service.type "ClusterIP") -}}
{{- fail "service.externalTrafficPolicy needs service.type LoadBalancer or NodePort: Kubernetes refuses it with ClusterIP" -}}
{{- end -}}
{{- if and .Values.ingress.enabled (not .Values.ingress.hosts) -}}
{{- fail "ingress.enabled needs ingress.hosts" -}}
{{- end -}}
{{- if and .Values.httpRoute.enabled (not .Values.httpRoute.parentRefs) -}}
{{- fail "httpRoute.enabled needs httpRoute.parentRefs: the Gateways that the route belongs to" -}}
{{- end -}}
{{- if and .Values.networkPolicy.enabled .Values.serviceMonitor.enabled (not .Values.networkPolicy.monitoring) -}}
{{- fail "networkPolicy.monitoring is empty: Prometheus could not reach the admin port. Name its pods or its namespace." -}}
{{- end -}}
{{- if and .Values.networkPolicy.enabled .Values.decision.enabled (not .Values.networkPolicy.fronts) -}}
{{- fail "networkPolicy.fronts is empty: no proxy could ask for decisions. Name the pods or namespaces of the proxies." -}}
{{- end -}}
{{- if and .Values.networkPolicy.enabled .Values.networkPolicy.restrictEgress (not .Values.networkPolicy.egress) -}}
{{- fail "networkPolicy.egress is empty: the pods could not reach Postgres, Redis, issuers and upstreams. List them, or leave restrictEgress out." -}}
{{- end -}}
{{- if .Values.serviceMonitor.enabled -}}
{{- if gt (include "gateway.milliseconds" .Values.serviceMonitor.scrapeTimeout | int) (include "gateway.milliseconds" .Values.serviceMonitor.interval | int) -}}
{{- fail (printf "serviceMonitor.scrapeTimeout (%s) is longer than serviceMonitor.interval (%s), which Prometheus refuses" .Values.serviceMonitor.scrapeTimeout .Values.serviceMonitor.interval) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "gateway.milliseconds" -}}
{{- mul (regexFind "^[0-9]+" . | int) (get (dict "ms" 1 "s" 1000 "m" 60000 "h" 3600000) (regexFind "[a-z]+$" .)) -}}
{{- end -}}

{{- define "gateway.validate.variables" -}}
{{- $secret := .Values.existingSecret -}}
{{- $keys := .Values.secretKeys -}}
{{- $env := list -}}
{{- range .Values.extraEnv -}}
{{- $name := trimSuffix "_FILE" .name -}}
{{- if has $name $env -}}
{{- fail (printf "extraEnv has %s twice: leave one of them out" $name) -}}
{{- end -}}
{{- $env = append $env $name -}}
{{- end -}}
{{- if has "GATEWAY_CONFIG" $env -}}
{{- fail "GATEWAY_CONFIG is set by the chart: use config" -}}
{{- end -}}
{{- range $path, $instead := include "gateway.own" . | fromYaml -}}
{{- $name := printf "GATEWAY_%s" ($path | replace "." "__" | upper) -}}
{{- if and (has $name $env) (ne $path "admin.token") -}}
{{- fail (printf "%s is set by the chart: use %s" $name $instead) -}}
{{- end -}}
{{- end -}}
{{- if not $secret -}}
{{- range list "adminToken" "migrationDsn" -}}
{{- if get $keys . -}}
{{- fail (printf "secretKeys.%s needs existingSecret: the Secret that has this key" .) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $stores := dict
  "postgres" (dict "variable" "GATEWAY_POSTGRES__DSN" "key" "postgresDsn" "setting" "dsn" "what" "database")
  "redis" (dict "variable" "GATEWAY_REDIS__URL" "key" "redisUrl" "setting" "url" "what" "Redis")
-}}
{{- range $section, $store := $stores -}}
{{- $inSecret := and $secret (get $keys $store.key) -}}
{{- $written := get $.Values.config $section -}}
{{- $written = kindIs "map" $written | ternary $written dict -}}
{{- if not (or $inSecret $.Values.extraEnvFrom (has $store.variable $env) (get $written $store.setting)) -}}
{{- fail (printf "the gateway has no %s: set existingSecret to a Secret with the keys of secretKeys, or config.%s.%s if it needs no password" $store.what $section $store.setting) -}}
{{- end -}}
{{- end -}}
{{- $inSecret := dict
  "GATEWAY_POSTGRES__DSN" (or $keys.postgresDsn $keys.migrationDsn)
  "GATEWAY_REDIS__URL" $keys.redisUrl
  "GATEWAY_ADMIN__TOKEN" $keys.adminToken
-}}
{{- range $env -}}
{{- if and $secret (get $inSecret .) -}}
{{- fail (printf "%s is in extraEnv and in existingSecret: leave one of them out" .) -}}
{{- end -}}
{{- end -}}
{{- end -}}
