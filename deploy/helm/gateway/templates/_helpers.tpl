{{- define "gateway.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 63 | trimAll "-" -}}
{{- end -}}

{{/* At most 52 characters: the longest suffix, "-migrate", still fits into a name. Without the dots that a release may
have, because Services may have none. */}}
{{- define "gateway.fullname" -}}
{{- $name := include "gateway.name" . -}}
{{- $full := .Values.fullnameOverride -}}
{{- if not $full -}}
{{- $full = ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) | replace "." "-" -}}
{{- end -}}
{{- $full | trunc 52 | trimAll "-" -}}
{{- end -}}

{{- define "gateway.instance" -}}
app.kubernetes.io/name: {{ include "gateway.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* What Services, the Deployment and the budget select: not the pods that migrate. */}}
{{- define "gateway.selector" -}}
{{ include "gateway.instance" . }}
app.kubernetes.io/component: gateway
{{- end -}}

{{/* Takes a list: the root, the component, and labels of this object alone, which count more than those of all. */}}
{{- define "gateway.labels" -}}
{{- $root := index . 0 -}}
{{ include "gateway.instance" $root }}
app.kubernetes.io/component: {{ index . 1 }}
app.kubernetes.io/version: {{ $root.Values.image.tag | default $root.Chart.AppVersion | trunc 63 | trimAll "-_." | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{- $more := deepCopy ($root.Values.commonLabels | default dict) -}}
{{- if gt (len .) 2 -}}{{- $more = mergeOverwrite $more (index . 2 | default dict) -}}{{- end -}}
{{- range $key := keys $more -}}
{{- if regexMatch "^(app[.]kubernetes[.]io/(name|instance|component|version|managed-by)|helm[.]sh/chart)$" $key -}}
{{- fail (printf "the label %s is the chart's own, by which Services find the pods: leave it out, or see nameOverride" $key) -}}
{{- end -}}
{{- end -}}
{{- with $more }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "gateway.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{- define "gateway.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "gateway.fullname" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

{{/* The fewest pods that there are in quiet times. */}}
{{- define "gateway.fewest" -}}
{{- ternary .Values.autoscaling.minReplicas .Values.deployment.replicas .Values.autoscaling.enabled -}}
{{- end -}}

{{/* After the drain, the gateway takes up to 5 seconds to end; 5 more are for a busy node. */}}
{{- define "gateway.graceSeconds" -}}
{{- $times := .Values.shutdown -}}
{{- $least := add $times.preStopSeconds $times.delaySeconds $times.drainSeconds 10 -}}
{{- $given := .Values.deployment.terminationGracePeriodSeconds -}}
{{- if kindIs "invalid" $given -}}
{{- $least -}}
{{- else if lt (int $given) (int $least) -}}
{{- fail (printf "deployment.terminationGracePeriodSeconds is %d, but a pod takes up to %d seconds to end: shutdown.preStopSeconds %d + shutdown.delaySeconds %d + shutdown.drainSeconds %d + 10. Raise it, leave it out, or lower these." (int $given) (int $least) (int $times.preStopSeconds) (int $times.delaySeconds) (int $times.drainSeconds)) -}}
{{- else -}}
{{- int $given -}}
{{- end -}}
{{- end -}}

{{/* What the chart writes into the configuration: the value that is for it, by its path. */}}
{{- define "gateway.own" -}}
server.listen: listenAddress and ports.http
server.reload: reload
server.shutdown_delay: shutdown.delaySeconds
server.drain_timeout: shutdown.drainSeconds
server.tls: tls.existingSecret
admin.listen: listenAddress and ports.admin
admin.token: secretKeys.adminToken
decision.listen: decision.enabled
decision.grpc_listen: decision.grpc
{{- end -}}

{{/* The configuration file. */}}
{{- define "gateway.config" -}}
{{- $config := deepCopy .Values.config -}}
{{- $own := include "gateway.own" . | fromYaml -}}
{{- range $path, $instead := $own -}}
{{- $keys := splitList "." $path -}}
{{- $section := get $config (first $keys) -}}
{{- if and (kindIs "map" $section) (hasKey $section (last $keys)) -}}
{{- fail (printf "config.%s is set by the chart: use %s" $path $instead) -}}
{{- end -}}
{{- end -}}
{{- range $section := list "issuers" "upstreams" "routes" -}}
{{- if not (get $config $section) -}}
{{- fail (printf "config.%s is missing: write it as in docs/configuration.md" $section) -}}
{{- end -}}
{{- end -}}
{{- $record := get $config "record" -}}
{{- if kindIs "map" $record -}}
{{- $directory := get $record "directory" -}}
{{- $in := list -}}
{{- range .Values.extraVolumeMounts -}}
{{- if and (not .readOnly) (hasPrefix (printf "%s/" (trimSuffix "/" .mountPath)) (printf "%s/" $directory)) -}}{{- $in = append $in .name -}}{{- end -}}
{{- end -}}
{{- if not $in -}}
{{- fail "config.record.directory must be in a volume that can be written, because the root filesystem cannot: mount one by extraVolumes and extraVolumeMounts" -}}
{{- end -}}
{{- end -}}
{{- $assertion := get $config "assertion" -}}
{{- $file := kindIs "map" $assertion | ternary (get (default dict $assertion) "key_file") "" -}}
{{- if $file -}}
{{- $in := list -}}
{{- range .Values.extraVolumeMounts -}}
{{- if hasPrefix (printf "%s/" (trimSuffix "/" .mountPath)) $file -}}{{- $in = append $in .name -}}{{- end -}}
{{- end -}}
{{- if not $in -}}
{{- fail "config.assertion.key_file must be in a volume that all pods share, because the gateway writes its keys there: mount one by extraVolumes and extraVolumeMounts, or leave key_file out, and the keys are in Postgres" -}}
{{- end -}}
{{- end -}}
{{- $text := toYaml $config -}}
{{- if or (regexMatch "://[^/@\\s:]*:[^/@\\s$][^/@\\s]*@" $text) (regexMatch "://[^\\s\"']*[?&][a-z_]*password=[^&\\s\"'$]" $text) -}}
{{- fail "config has a URL with a password: put it into the Secret that existingSecret names, or write ${NAME} and set NAME in extraEnv from a Secret" -}}
{{- end -}}
{{- if regexMatch "(?m)^[\\s-]*(secret|client_secret): *[\"']?[^\\s\"'$]" ($text | replace "secret: null" "") -}}
{{- fail "config has a secret: mount it by extraVolumes and name its file (secret_file, client_secret_file), or write ${NAME} and set NAME in extraEnv from a Secret" -}}
{{- end -}}
{{- $server := dict
  "listen" (printf "%s:%d" .Values.listenAddress (int .Values.ports.http))
  "reload" (ternary "watch" "signal" (eq .Values.reload "watch"))
  "shutdown_delay" (printf "%ds" (int .Values.shutdown.delaySeconds))
  "drain_timeout" (printf "%ds" (int .Values.shutdown.drainSeconds))
-}}
{{- if .Values.tls.existingSecret -}}
{{- $_ := set $server "tls" (dict "certificate" "/run/secrets/tls/tls.crt" "key" "/run/secrets/tls/tls.key") -}}
{{- end -}}
{{- $chart := dict "server" $server "admin" (dict "listen" (printf "%s:%d" .Values.listenAddress (int .Values.ports.admin))) -}}
{{- if .Values.decision.enabled -}}
{{- $decision := dict "listen" (printf "%s:%d" .Values.listenAddress (int .Values.ports.decision)) -}}
{{- if .Values.decision.grpc -}}
{{- $_ := set $decision "grpc_listen" (printf "%s:%d" .Values.listenAddress (int .Values.ports.grpc)) -}}
{{- end -}}
{{- $_ := set $chart "decision" $decision -}}
{{- end -}}
{{/* The cores of a node say nothing about a pod's share: `auto` would start a worker for each. */}}
{{- $defaults := dict "server" (dict "workers" 2) -}}
{{- toYaml (mergeOverwrite $defaults $config $chart) -}}
{{- end -}}

{{/* Takes a list: the root, and the key of the Secret with the DSN. */}}
{{- define "gateway.env" -}}
{{- $root := index . 0 -}}
{{- $dsn := index . 1 -}}
- name: GATEWAY_CONFIG
  value: /etc/gateway/gateway.yaml
{{- if $root.Values.existingSecret }}
{{- if $dsn }}
- name: GATEWAY_POSTGRES__DSN_FILE
  value: /run/secrets/gateway/{{ $dsn }}
{{- end }}
{{- with $root.Values.secretKeys.redisUrl }}
- name: GATEWAY_REDIS__URL_FILE
  value: /run/secrets/gateway/{{ . }}
{{- end }}
{{- with $root.Values.secretKeys.adminToken }}
- name: GATEWAY_ADMIN__TOKEN_FILE
  value: /run/secrets/gateway/{{ . }}
{{- end }}
{{- end }}
{{- with $root.Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "gateway.mounts" -}}
- name: config
  mountPath: /etc/gateway
  readOnly: true
- name: temporary
  mountPath: /tmp
{{- if .Values.existingSecret }}
- name: secrets
  mountPath: /run/secrets/gateway
  readOnly: true
{{- end }}
{{- if .Values.tls.existingSecret }}
- name: tls
  mountPath: /run/secrets/tls
  readOnly: true
{{- end }}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Takes a list: the root, the name of the ConfigMap, and the keys of the Secret. */}}
{{- define "gateway.volumes" -}}
{{- $root := index . 0 -}}
- name: config
  configMap:
    name: {{ index . 1 }}
- name: temporary
  emptyDir:
    medium: Memory
    sizeLimit: {{ $root.Values.temporary.sizeLimit }}
{{- if $root.Values.existingSecret }}
- name: secrets
  secret:
    secretName: {{ $root.Values.existingSecret }}
    defaultMode: 288
    items:
    {{- range (index . 2) | compact | uniq }}
    - key: {{ . }}
      path: {{ . }}
    {{- end }}
{{- end }}
{{- if $root.Values.tls.existingSecret }}
- name: tls
  secret:
    secretName: {{ $root.Values.tls.existingSecret }}
    defaultMode: 288
{{- end }}
{{- with $root.Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* What the pods that serve and those that migrate have in common. */}}
{{- define "gateway.pod" -}}
# Kubernetes would set variables for each Service, and GATEWAY_ADMIN_PORT could be taken for a setting.
enableServiceLinks: false
securityContext:
  {{- toYaml .Values.podSecurityContext | nindent 2 }}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.dnsConfig }}
dnsConfig:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.hostAliases }}
hostAliases:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}
