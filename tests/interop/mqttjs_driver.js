// Hosts mqtt.js clients for the Python suite. One JSON object per line comes in on stdin (an order to one client), one per line
// goes out on stdout (an answer to an order, or something that happened to a client). Payloads and binary properties are hex.
'use strict'

const path = require('path')
const readline = require('readline')
// The package lives outside the tree; its directory is the only argument.
const mqtt = require(path.join(process.argv[2], 'node_modules', 'mqtt'))

const clients = new Map()
const say = (line) => process.stdout.write(JSON.stringify(line) + '\n')

const hexOf = (bytes) => Buffer.from(bytes || '').toString('hex')
const bytesOf = (hex) => Buffer.from(hex || '', 'hex')

// Correlation data is the one binary property that the suite uses.
function propertiesIn (properties) {
  if (properties && 'correlationData' in properties) {
    return { ...properties, correlationData: bytesOf(properties.correlationData) }
  }
  return properties || undefined
}

function propertiesOut (properties) {
  if (properties && properties.correlationData) {
    return { ...properties, correlationData: hexOf(properties.correlationData) }
  }
  return properties || {}
}

const orders = {
  connect (order, answer) {
    const options = { ...order.options, reconnectPeriod: 0, connectTimeout: 20000, resubscribe: false }
    options.properties = propertiesIn(options.properties)
    if (options.will) {
      options.will = { ...options.will, payload: bytesOf(options.will.payload) }
      options.will.properties = propertiesIn(options.will.properties)
    }
    const client = mqtt.connect(options)
    clients.set(order.client, client)
    client.on('packetreceive', (packet) => {
      if (packet.cmd === 'connack') {
        answer({
          sessionPresent: packet.sessionPresent,
          reason: packet.reasonCode ?? packet.returnCode,
          properties: propertiesOut(packet.properties)
        })
      } else if (packet.cmd === 'disconnect') {
        client.disconnectReason = packet.reasonCode ?? 0
      } else if (['puback', 'pubrec', 'pubcomp'].includes(packet.cmd)) {
        // The callback of `publish` is not told a reason that counts as success.
        client.acknowledgeReason = packet.reasonCode || client.acknowledgeReason
      }
    })
    client.on('message', (topic, payload, packet) => say({
      client: order.client,
      event: 'message',
      topic,
      payload: hexOf(payload),
      qos: packet.qos,
      retain: packet.retain,
      dup: packet.dup,
      properties: propertiesOut(packet.properties)
    }))
    client.on('close', () => say({ client: order.client, event: 'end', reason: client.disconnectReason ?? null }))
    // Each refusal reaches the test as CONNACK or as `end`; without a listener Node.js would stop the process.
    client.on('error', () => {})
  },
  subscribe (order, answer) {
    clients.get(order.client).subscribe({ [order.filter]: order.options }, { properties: order.properties }, (error, granted, packet) =>
      answer(packet ? { reason: packet.granted[0] } : { error: String(error) }))
  },
  unsubscribe (order, answer) {
    clients.get(order.client).unsubscribe(order.filter, (error, packet) =>
      answer(error ? { error: String(error) } : { reason: packet?.granted?.[0] ?? 0 }))
  },
  publish (order, answer) {
    const client = clients.get(order.client)
    const options = { qos: order.qos, retain: order.retain, properties: propertiesIn(order.properties) }
    client.acknowledgeReason = 0
    client.publish(order.topic, bytesOf(order.payload), options, (error) =>
      answer(error && error.code === undefined ? { error: String(error) } : { reason: client.acknowledgeReason }))
  },
  disconnect (order, answer) {
    clients.get(order.client).end(false, {}, () => answer({}))
  },
  abort (order, answer) {
    const stream = clients.get(order.client).stream
    // Node.js resets plain sockets only; streams of TLS and WebSocket just end, without a word of their own.
    if (stream.resetAndDestroy && !stream.encrypted) stream.resetAndDestroy()
    else stream.destroy()
    answer({})
  }
}

readline.createInterface({ input: process.stdin }).on('line', (line) => {
  const order = JSON.parse(line)
  const answer = (fields) => say({ order: order.order, ...fields })
  try {
    orders[order.do](order, answer)
  } catch (error) {
    answer({ error: String(error) })
  }
}).on('close', () => process.exit(0))
