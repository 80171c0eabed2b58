variable "subscription_id" {
  type        = string
  description = "Subscription of Azure that everything belongs to."
  validation {
    condition     = can(regex("^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$", var.subscription_id))
    error_message = "It is a UUID in lower case, as `az account show --query id` prints it."
  }
}

variable "name" {
  type        = string
  default     = "enginehouse"
  description = "How the names of all resources begin. One for each environment."
  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,14}[a-z0-9]$", var.name))
    error_message = "3 to 16 characters: a-z, 0-9 and -, from a letter on."
  }
}

variable "suffix" {
  type        = string
  description = "End of the names that are shared with all customers of Azure: of the registry, the vault, the storage account and the servers."
  validation {
    condition     = can(regex("^[a-z0-9]{3,6}$", var.suffix))
    error_message = "3 to 6 characters: a-z and 0-9."
  }
}

variable "location" {
  type        = string
  default     = "westeurope"
  description = "Region of Azure."
}

variable "zones" {
  type        = set(string)
  default     = ["1", "2", "3"]
  description = "Availability zones of the region that nodes are spread over. Empty for a region without zones."
  validation {
    condition     = alltrue([for zone in var.zones : contains(["1", "2", "3"], zone)])
    error_message = "Zones are \"1\", \"2\" and \"3\"."
  }
}

variable "tags" {
  type        = map(string)
  default     = {}
  description = "Tags of all resources, such as who pays for them."
}

variable "host" {
  type        = string
  description = "Name in DNS of the API, such as enginehouse.example. Point it to the ingress."
  validation {
    condition     = can(regex("^[a-z0-9-]+(\\.[a-z0-9-]+)+$", var.host))
    error_message = "A host name, without https:// and without a path."
  }
}

variable "certificate" {
  type        = string
  default     = "enginehouse"
  description = "Name of the certificate of `host` in the key vault, where you put it."
}

# Network

variable "address_space" {
  type        = string
  default     = "10.224.0.0/16"
  description = "Addresses of the virtual network. Nodes, the ledger and private endpoints get parts of it."
  validation {
    condition     = can(cidrhost(var.address_space, 0)) && try(tonumber(split("/", var.address_space)[1]) <= 20, false)
    error_message = "A range of at least /20, such as 10.224.0.0/16."
  }
}

variable "pod_cidr" {
  type        = string
  default     = "10.244.0.0/16"
  description = "Addresses of pods. They are an overlay: nothing outside the cluster sees them."
  validation {
    condition     = can(cidrhost(var.pod_cidr, 0))
    error_message = "A range such as 10.244.0.0/16."
  }
}

variable "service_cidr" {
  type        = string
  default     = "10.0.0.0/16"
  description = "Addresses of Services of the cluster."
  validation {
    condition     = can(cidrhost(var.service_cidr, 0))
    error_message = "A range such as 10.0.0.0/16."
  }
}

variable "operator_cidrs" {
  type        = list(string)
  description = "Public addresses from which operators and pipelines reach the API server, the key vault and the image registry."
  validation {
    condition     = length(var.operator_cidrs) > 0 && alltrue([for cidr in var.operator_cidrs : can(cidrhost(cidr, 0)) && cidr != "0.0.0.0/0"])
    error_message = "At least one range such as 203.0.113.7/32, and never the whole internet."
  }
}

variable "objects_open_to_clients" {
  type        = bool
  default     = true
  description = "Whether clients outside the network reach the storage account, by the signed URLs that the gateway gives them. Otherwise large inputs and outputs are for clients inside it."
}

# Cluster

variable "kubernetes_version" {
  type        = string
  default     = null
  description = "Version of Kubernetes, such as 1.34. null: what Azure recommends; patches come by themselves."
  validation {
    condition     = var.kubernetes_version == null || can(regex("^1\\.[3-9][0-9]$", var.kubernetes_version))
    error_message = "Such as 1.34; Enginehouse needs 1.30 or later."
  }
}

variable "dapr_version" {
  type        = string
  default     = null
  description = "Version of the Dapr extension, such as 1.18.2. null: the newest, which then updates by itself. Enginehouse is tested with 1.18."
  validation {
    condition     = var.dapr_version == null || can(regex("^1\\.(1[89]|[2-9][0-9])\\.[0-9]+$", var.dapr_version))
    error_message = "Such as 1.18.2; Enginehouse needs 1.18 or later."
  }
}

variable "cluster_admin_groups" {
  type        = list(string)
  description = "Object ids of the groups in Microsoft Entra whose members administer the cluster. It has no local accounts. The first one installs Enginehouse."
  validation {
    condition     = length(var.cluster_admin_groups) > 0
    error_message = "Without a group nobody could enter the cluster."
  }
}

variable "system_pool" {
  type = object({
    vm_size = optional(string, "Standard_D4ds_v5")
    min     = optional(number, 2)
    max     = optional(number, 6)
  })
  default     = {}
  description = "Nodes of what is trusted: the system, gateway, registry, Redis and the runners of all tenants."
  validation {
    condition     = var.system_pool.min >= 1 && var.system_pool.min <= var.system_pool.max
    error_message = "min is at least 1, and at most max."
  }
}

variable "tenant_pools" {
  type = map(object({
    vm_size  = optional(string, "Standard_D4ds_v5")
    min      = optional(number, 0)
    max      = optional(number, 10)
    spot     = optional(bool, false)
    gpu      = optional(bool, false)
    isolated = optional(bool, false)
    labels   = optional(map(string), {})
  }))
  default     = { tenants = {} }
  description = "Nodes of engines, by name. `spot`: cheap ones, which Azure may take away. `gpu`: only for engines that ask for a GPU. `isolated`: each pod in a virtual machine of its own (runtime class kata-vm-isolation)."
  validation {
    condition     = alltrue([for name in keys(var.tenant_pools) : can(regex("^[a-z][a-z0-9]{0,11}$", name)) && name != "system"])
    error_message = "Names have up to 12 characters, a-z and 0-9, and differ from system."
  }
  validation {
    condition     = alltrue([for pool in var.tenant_pools : pool.min >= 0 && pool.min <= pool.max])
    error_message = "min is at least 0, and at most max."
  }
  validation {
    condition     = alltrue([for pool in var.tenant_pools : !(pool.gpu && pool.isolated)])
    error_message = "Pods in virtual machines of their own see no GPU."
  }
}

# Ledger

variable "ledger" {
  type = object({
    sku                   = optional(string, "GP_Standard_D2ds_v5")
    version               = optional(string, "17")
    storage_mb            = optional(number, 65536)
    backup_retention_days = optional(number, 14)
    geo_redundant_backup  = optional(bool, false)
    # In another zone, with what was committed. Twice the price.
    standby = optional(bool, true)
  })
  default     = {}
  description = "The PostgreSQL flexible server that holds the ledger: the truth about which jobs were accepted."
  validation {
    condition     = var.ledger.backup_retention_days >= 7 && var.ledger.backup_retention_days <= 35
    error_message = "Backups are kept for 7 to 35 days."
  }
  validation {
    condition     = contains(["15", "16", "17", "18"], var.ledger.version)
    error_message = "PostgreSQL 15 to 18."
  }
}

variable "ledger_password_version" {
  type        = number
  default     = 1
  description = "Raise it to give the ledger a new password. Then make the Secret `gateway` anew."
  validation {
    condition     = var.ledger_password_version >= 1
    error_message = "It begins with 1."
  }
}

# Broker

variable "prepared_brokers" {
  type        = set(string)
  default     = []
  description = "Brokers of Azure that are made ready for later: managed_redis, service_bus. Today's broker is Redis in the cluster; see README.md."
  validation {
    condition     = alltrue([for broker in var.prepared_brokers : contains(["managed_redis", "service_bus"], broker)])
    error_message = "managed_redis and service_bus are known."
  }
}

variable "managed_redis_sku" {
  type        = string
  default     = "Balanced_B5"
  description = "Size of Azure Managed Redis, where `prepared_brokers` names it."
}

variable "service_bus_units" {
  type        = number
  default     = 1
  description = "Messaging units of Azure Service Bus (Premium), where `prepared_brokers` names it."
  validation {
    condition     = contains([1, 2, 4, 8, 16], var.service_bus_units)
    error_message = "1, 2, 4, 8 or 16."
  }
}

# Objects, images, logs

variable "storage_replication" {
  type        = string
  default     = "ZRS"
  description = "How Azure copies the objects: in one place, over zones, or over regions."
  validation {
    condition     = contains(["LRS", "ZRS", "GRS", "GZRS"], var.storage_replication)
    error_message = "LRS, ZRS, GRS or GZRS."
  }
}

variable "log_retention_days" {
  type        = number
  default     = 90
  description = "How long audit logs are kept."
  validation {
    condition     = var.log_retention_days >= 30 && var.log_retention_days <= 730
    error_message = "30 to 730 days."
  }
}
